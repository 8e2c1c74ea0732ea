#!/usr/bin/env python3
"""Record what Hugging Face's CLIP tokenizers make of many prompts.

    python3 tools/make_token_fixture.py tests/fixtures/tokens.json

Four tokenizers: CLIP's complete vocabulary with either padding (as SDXL's two
encoders have them), and the demonstration checkpoint's two. Writes the fast
tokenizer's ids up to the end of the text; prints the prompts on which the slow
one, which needs ftfy, differs. Needs transformers and ftfy.
"""
import json
import random
import sys
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer, CLIPTokenizerFast

ROOT = Path(__file__).resolve().parent.parent

PROMPTS = r"""hello world
a person riding a motorcycle
You should've done this
a photo of a cat, naïve 42!
A red circle on a blue background
an astronaut riding a horse on mars, 4k, highly detailed
masterpiece, best quality, ultra-detailed, (illustration:1.2), 1girl
portrait of Geralt of Rivia by Greg Rutkowski, artstation, 8k uhd
it's, I'm, we're, they've, he'd, she'll, can't, don't, 'tis, o'clock, rock'n'roll
IT'S I'M WE'RE THEY'VE HE'D SHE'LL CAN'T
's't're've'm'll'd
''' '' ' '''s
cats' dogs'
0123456789
1234 56 7 3.14159 1,000,000 1e10 -5 +7 ½ ² ³ ① Ⅷ ٣ ४
2x4 mm 50mm f/1.8 ISO100 1/200s
!
!!
!!!!!!
a ! b
wow!that!is!great
!a!
? ?? ?! !? ... … — – - _ __ ~ ` ^
hello,world;foo:bar|baz
(a) [b] {c} <d> "e" 'f' «g» ‹h› “i” ‘j’ „k‟
a/b\\c @user #tag $5 %50 ^2 &amp; &lt;b&gt; *star* = +
<|endoftext|>
<|startoftext|>
a <|endoftext|> b
<|endoftext|><|endoftext|>
<|startoftext|>a cat<|endoftext|>
<|ENDOFTEXT|> <|StartOfText|>
x<|endoftext|>y
<|endoftext|>!
< |endoftext| >
<|endoftext
|endoftext|>
<|end of text|>
naïve café résumé Zoë façade jalapeño
naïve café
ÀÉÎÕÜ ß ẞ ÿ Ÿ Ø Æ Œ Þ Ð ł Ł ğ İ ı ş
İstanbul IĞDIR ıspanak
Ångström Å Å
ﬁ ﬂ ﬀ ﬃ ﬄ ﬅ
Ⅳ ℌ ℵ ™ ® © ℃ №
ΑΒΓ αβγ ς Σ ΣΑΣ ΟΔΟΣ
Привет, мир! Ёлка ё й Й
שלום עולם
مرحبا بالعالم ٠١٢
नमस्ते दुनिया
สวัสดีชาวโลก
안녕하세요 세계 한글
한글
こんにちは世界、カタカナ ガ が
你好，世界。一只猫在月亮上
龍門飛甲 𠮷野家 𩸽
ＦＵＬＬ　ＷＩＤＴＨ　１２３
😀 😂🤣 ❤️ ❤ 👍🏽 👨‍👩‍👧‍👦 🇩🇪🇫🇷 🏳️‍🌈 ☃ ✈️
a cat 🐱 on a mat 🧘
🎨🖌️ painting
a\u200bb a\u200db a\u00adb \ufeffbom
a\u0000b
a\u0001\u0002\u001f b
a\tb\nc\rd\x0be\x0cf
a\x1cb\x1db\x1eb\x1fb
a\u0085b\u00a0c\u1680d\u2000e\u2028f\u2029g\u202fh\u205fi\u3000j
\u180e \u200b \u2060
\x7f \x80 \x9f
e\u0301 e\u0301\u0300 \u0301 a\u0327\u0301
\u1e9b\u0323 \u1e69 s\u0323\u0307
\uac00\u11a8 \u1100\u1161\u11a8
\u212b \u2126 \u0958
\ufffd \uffff \ue000 \U0010ffff
\U0001d400\U0001d41a \U0001d7d8
tab\tseparated\tvalues
line one\nline two\r\nline three
   leading and trailing   
multiple    spaces   between
 
  
\t\n

.
,
a
A
I
z
_
'
"
\\
/
x_y_z snake_case camelCase PascalCase kebab-case
https://example.com/path?query=1&b=2#frag
user@example.com
C++ C# .NET Node.js
rgb(255,0,0) #ff00ff
ＡＢＣ ａｂｃ
aa aaa aaaa aaaaaaaaaaaaaaaaaaaaaaaaaaaaa
abababababababababababab
supercalifragilisticexpialidocious
pneumonoultramicroscopicsilicovolcanoconiosis
Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogoch
Donaudampfschifffahrtsgesellschaftskapitän
xqzjkvw bcdfghjklmnpqrstvwxyz
qwertyuiop asdfghjkl
THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG
tHe QuIcK bRoWn FoX
a(b)c[d]e{f}g
((cinematic photo:1.3)), [blurry], (bokeh:0.8)
cat AND dog, BREAK, sky
<lora:foo:0.8> cat
embedding:badhands
score_9, score_8_up, score_7_up
1girl, solo, long_hair, :d, ^_^, >_<, o_o, \\(^o^)/
don’t “quote” it’s – dash
l'été d'Artagnan qu'il n'est aujourd'hui
¿Qué? ¡Hola! Señor niño
größer Straße Übermut
smörgåsbord Ærø
žluťoučký kůň
Đặng Văn Lâm phở
Ţţ Șș
$€£¥₿ 5€ £10
a²+b²=c² x₁ ∑∫√∞≈≠≤≥
→ ← ↑ ↓ ⇒ ▲ ■ ● ★ ☆
♠♥♦♣ ♪♫
¹²³ ¼½¾
a.b.c. U.S.A. Ph.D. e.g. i.e. etc.
3d render, 2d, 4k, 8K, 1080p, 35mm, 90s, 80's
'80s rock 'n' roll
o'brien o’brien
she's he'S it'S 'S 'T 'RE 'VE 'M 'LL 'D
ain't y'all'd've
nice'sort 'smile 'thing 'really
ſ K Å
ǅ ǈ ǋ ǲ
ꙮ Ꙗ
🅰🅱 Ⓐⓐ ㊗ ㎏
ё ё
null undefined NaN true false
"""

WORDS = ("a the of on with and cat dog circle square star heart red blue green yellow background large small striped "
         "photograph painting of, highly detailed, 8k cinematic, neon glow; noisy naïve café Tokyo's don't !").split(" ")
LETTERS = "aeiourstnlbcdzxqjk'-,.!? 0159éüßñжщ中文字😀ａ\t\u0301<|>ſI"


def prompts():
    result = [unescape(p) for p in PROMPTS.split("\n")[:-1]]
    result += ["", "\n\n", "\u3000", "word " * 74, "word " * 75, "word " * 76, "word " * 90, "a" * 300, "!" * 120,
               "猫" * 40, "😀" * 30, "1" * 80, "a photo of " + "very " * 70 + "happy cat <|endoftext|> and dog"]
    rng = random.Random(1)
    for _ in range(100):
        result.append(" ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 25))))
    for _ in range(70):
        result.append("".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 40))))
    return list(dict.fromkeys(result))


def unescape(text):
    """Escapes of control characters and code points."""
    out, i = [], 0
    widths = {"x": 2, "u": 4, "U": 8}
    while i < len(text):
        if text[i] == "\\" and i + 1 < len(text):
            kind = text[i + 1]
            if kind in widths:
                out.append(chr(int(text[i + 2:i + 2 + widths[kind]], 16)))
                i += 2 + widths[kind]
            else:
                out.append({"n": "\n", "t": "\t", "r": "\r"}.get(kind, kind))
                i += 2
        else:
            out.append(text[i])
            i += 1
    return "".join(out)


def clip_folder(folder, pad):
    """CLIP's complete tokenizer as SDXL's repositories have it."""
    merges = (ROOT / "models/clip/merges.txt").read_text()
    codes = [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]
    symbols = [chr(c) for c in codes]
    pairs = [line.replace(" ", "") for line in merges.strip().split("\n")[1:]]
    vocab = symbols + [s + "</w>" for s in symbols] + pairs + ["<|startoftext|>", "<|endoftext|>"]
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    folder.mkdir()
    (folder / "merges.txt").write_text(merges)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, "model_max_length": 77}))
    return folder


def main():
    texts = prompts()
    result = {"prompts": texts}
    with tempfile.TemporaryDirectory() as temp:
        demo = ROOT / "models/demo/base"
        folders = {"clip": clip_folder(Path(temp) / "1", "<|endoftext|>"), "clip_2": clip_folder(Path(temp) / "2", "!"),
                   "demo": demo / "tokenizer", "demo_2": demo / "tokenizer_2"}
        for name, folder in folders.items():
            fast, slow = CLIPTokenizerFast.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
            encode = lambda t, text: t(text, padding="max_length", max_length=77, truncation=True).input_ids
            ids, differ = [], []
            for text in texts:
                full = encode(fast, text)
                mask = fast(text, truncation=True, max_length=77).input_ids
                assert full == mask + [fast.pad_token_id] * (77 - len(mask)), text
                ids.append(mask)
                if encode(slow, text) != full:
                    differ.append(text)
            print(f"{name}: {len(texts)} prompts, the slow tokenizer differs on {len(differ)}:")
            print("  " + "  ".join(map(repr, differ)))
            first = result.get(name.removesuffix("_2"))
            # Ids that equal those of the first tokenizer are left out.
            result[name] = ids if first is None else [None if a == b else a for a, b in zip(ids, first)]
    Path(sys.argv[1]).write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
