#!/usr/bin/env python3
"""Record what Hugging Face's slow CLIP tokenizer with ftfy makes of pasted text.

    python3 tools/make_slow_token_fixture.py tests/fixtures/slow-tokens.json

CLIP's complete vocabulary with either padding, as SDXL's two encoders have them.
The prompts are those below and every one of make_token_fixture.py on which the
slow tokenizer differs from the fast one. Writes [prompt, ids, ids of the second
tokenizer or null where they are the same]. Needs transformers and ftfy.
"""
import json
import sys
import tempfile
from pathlib import Path

import ftfy
from transformers import CLIPTokenizer, CLIPTokenizerFast

from make_token_fixture import clip_folder, prompts

PASTED = [
    "\u201cneon sign\u201d that says \u2018open\u2019, it\u2019s night, rock\u2019n\u2019roll, \u201aa\u201b \u201eb\u201f \u02bcn",
    "Ｔｏｋｙｏ　ｓｔｒｅｅｔ，１２０ｍｍ　ｆｉｌｍ！（ｂｏｋｅｈ：１．２）",
    "ﾈｵﾝ ｶﾞｰﾙ ﾊﾟﾝ ￥1000 ￡5 ￠ ￣ ￦ ｟x｠ ￨ ￩ ￮ ﾡﾢ ￂ",
    "ﬁne ﬂower, eﬃcient oﬀice, ﬅ ﬆ, Ĳsselmeer ĳs, ŉ, Ǆ ǅ ǆ Ǉ ǈ ǉ Ǌ ǋ ǌ Ǳ ǲ ǳ",
    "salt &amp; pepper, &lt;3, 5 &gt; 4, &quot;quoted&quot;, caf&eacute;, &hellip; &ldquo;a&rdquo; &#39;b&#x27; &#8217; &nbsp; &copy;",
    "a &amp;amp; b &amp;lt; c &amp;#39; d",
    "<b>bold &amp; brave</b>",
    "first &amp; second\nthird <i> &amp; fourth\nfifth &amp; sixth",
    "&EACUTE;COLE P&EACUTE;REZ &NTILDE; &nTILDE; &AMP; &LT; STRA&SZLIG;E &Alpha; &ALPHA; &THETASYM;",
    "&unknown; &amp &; &#; &#x; &#0; &#128; &#146; &#xD800; &#1114112; &#99999999999; &#65 &apos; &comma; &excl; &lowbar;",
    "a\u0092s \u0093b\u0094 \u0085 \u0096 \u0080",
    "a\u0000b\u0007c\u001bd\u007fe\ufefff\u206ag\ufff9h\ufffci \u001b[31mred\u001b[0m \u001b[1;2m x",
    "\ufeffa red circle",
    "a\u2028b\u2029c\r\nd\re\u000bf\u000cg\u00a0h\u2003i\u3000j\u001cj\u001fk",
    "ΟΔΥΣΣΕΥΣ ΣΟΦΟΣ Σ ΑΣ. ΣΑΣ'Σ",
    "İstanbul IĞDIR straße STRASSE ẞ",
    "cafe\u0301 n\u0303 A\u030a \u212b \u1e9b\u0323 가 \u1100\u1161",
    "👩\u200d🚀 🇩🇪 ❤\ufe0f 👍🏽 \u200e\u200f\u202aabc\u202c",
    "שלום עולם, مرحبا بالعالم, नमस्ते, ภาษาไทย",
    "a “(cat:1.2)” — ‹b› «c» … – • ™ ® © ° ½ № ℃ ㎜ ① Ⅳ ²",
    "portrait of a woman, “film still”, 35mm ﬁlm, f／1．8, bokeh, masterpiece，best quality、8k",
    "&ldquo;Don&rsquo;t panic&rdquo; &mdash; Douglas Adams",
    "!“!” &excl;",
]


def main():
    rows = []
    with tempfile.TemporaryDirectory() as temp:
        folders = [clip_folder(Path(temp) / "1", "<|endoftext|>"), clip_folder(Path(temp) / "2", "!")]
        slow = [CLIPTokenizer.from_pretrained(folder) for folder in folders]
        fast = [CLIPTokenizerFast.from_pretrained(folder) for folder in folders]
        assert all(t.fix_text is ftfy.fix_text for t in slow)
        ids = lambda t, text: t(text, truncation=True, max_length=77).input_ids
        differ = [p for p in prompts() if any(ids(a, p) != ids(b, p) for a, b in zip(slow, fast))]
        # After an apostrophe the slow one takes a long s for the s of "it's".
        differ = [p for p in differ if "'\u017f" not in p]
        for text in dict.fromkeys([*PASTED, *differ]):
            first, second = (ids(t, text) for t in slow)
            rows.append([text, first, None if first == second else second])
    print(f"{len(rows)} prompts, ftfy {ftfy.__version__}; differing from the fast one: {differ}")
    Path(sys.argv[1]).write_text(json.dumps(rows, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
