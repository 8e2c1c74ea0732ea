//! `calotype bench`: its report in every form, the comparison of two, and what it says to
//! wrong arguments. Times are no test; what is printed of them is.

#[path = "common/server.rs"]
mod server;

use calotype::bench::report::{Report, Suite, schema};
use calotype::bench::statistics::Summary;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

fn bench(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calotype"))
        .arg("bench")
        .args(args)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What `args` print, which must succeed.
fn printed(folder: &Path, args: &[&str]) -> String {
    let output = bench(folder, args);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    text(&output.stdout)
}

/// A report of two kernels, with the peaks that they are held against: the folder of its
/// files, and what was printed. Measured once.
static MEASURED: LazyLock<(PathBuf, Value)> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let common = ["--repetitions", "5"];
    let kernels = [
        "kernels",
        "--quick",
        "layer norm",
        "unet q ",
        "--save",
        "kernels.json",
    ];
    let svg = ["--svg", "roof.svg", "--format", "json"];
    let args = [&kernels[..], &common, &svg].concat();
    let json = serde_json::from_str(&printed(&folder, &args)).unwrap();
    (folder, json)
});

/// Cells of the tables in `markdown`, row by row, by a reader of Markdown.
fn cells(markdown: &str) -> Vec<Vec<String>> {
    use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
    let mut rows: Vec<Vec<String>> = Vec::new();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::TableRow | Tag::TableHead) => rows.push(Vec::new()),
            Event::End(TagEnd::TableHead) => drop(rows.pop()),
            Event::Start(Tag::TableCell) => rows.last_mut().into_iter().for_each(|row| {
                row.push(String::new());
            }),
            Event::Text(text) => {
                if let Some(cell) = rows.last_mut().and_then(|row| row.last_mut()) {
                    cell.push_str(&text);
                }
            }
            _ => {}
        }
    }
    rows
}

#[test]
fn every_form_of_a_report_has_the_same_numbers() {
    let (folder, json) = &*MEASURED;
    let saved = Report::open(&folder.join("kernels.json")).unwrap();
    assert_eq!(serde_json::to_value(&saved).unwrap(), *json);
    assert!(saved.of(Suite::Peaks).count() > 6);
    let kernels: Vec<_> = saved.of(Suite::Kernels).collect();
    assert!(kernels.len() > 2, "{json}");
    for row in &saved.rows {
        assert_eq!(row.samples.len(), 5, "{row:?}");
        let summary = Summary::of(&row.samples).unwrap();
        let near = (summary.median / row.summary.median - 1.0).abs() < 1e-12;
        assert!(near && row.warm_up == 1, "{row:?}");
    }
    for row in &kernels {
        assert!(row.error.is_some_and(|e| e < 5e-3), "{row:?}");
        assert!(
            row.share_of_peak.is_some_and(|share| share > 0.0),
            "{row:?}"
        );
    }

    use calotype::bench::report::Format;
    let table = saved.print(Format::Csv).unwrap();
    let mut lines = csv::Reader::from_reader(table.as_bytes());
    let heads = lines.headers().unwrap().clone();
    let column = |name: &str| heads.iter().position(|head| head == name).unwrap();
    let (median, samples, name) = (column("median"), column("samples"), column("name"));
    let mut count = 0;
    for (line, row) in lines.records().zip(&saved.rows) {
        let line = line.unwrap();
        assert_eq!(line[name], row.subject.name);
        assert_eq!(line[median].parse::<f64>().unwrap(), row.summary.median);
        let kept: Vec<f64> = line[samples]
            .split(' ')
            .map(|x| x.parse().unwrap())
            .collect();
        assert_eq!(kept, row.samples);
        count += 1;
    }
    assert_eq!(count, saved.rows.len());

    let lines = saved.print(Format::JsonLines).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), saved.rows.len());
    for (line, row) in lines.iter().zip(&saved.rows) {
        assert_eq!(line["summary"]["median"].as_f64(), Some(row.summary.median));
        assert_eq!(line["schema"], 1);
    }

    let markdown = saved.print(Format::Markdown).unwrap();
    let rows = cells(&markdown);
    assert_eq!(rows.len(), saved.rows.len(), "{markdown}");
    let table = rows.iter().map(Vec::len);
    assert!(table.clone().min() > Some(3) && table.max() < Some(14));
    let last = markdown.lines().last().unwrap();
    for part in ["calotype ", " cores", "5 runs", &saved.date] {
        assert!(last.contains(part), "{last}");
    }

    let svg = std::fs::read_to_string(folder.join("roof.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("prefers-color-scheme"));
    assert!(
        svg.matches("<circle").count()
            >= kernels.iter().filter(|r| r.intensity().is_some()).count()
    );
}

#[test]
fn a_step_is_drawn_kernel_by_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let args = "model --model demo --sizes 64 --steps 1 --no-peaks --repetitions 5 --svg step.svg";
    let words: Vec<&str> = args.split(' ').chain(["--format", "json"]).collect();
    let json: Value = serde_json::from_str(&printed(folder.path(), &words)).unwrap();
    let rows = json["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    for name in ["UNet step", "text encoders", "VAE decode", "picture"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let share = |row: &Value| row["figures"]["share"].as_f64().unwrap_or_default();
    let shares: f64 = rows
        .iter()
        .filter(|row| row["suite"] == "step")
        .map(share)
        .sum();
    let svg = std::fs::read_to_string(folder.path().join("step.svg")).unwrap();
    if shares > 0.0 {
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        assert!(
            svg.contains(" %</text>") || svg.contains(" %\n</text>"),
            "{svg}"
        );
    }
}

#[test]
fn the_schema_in_the_documents_is_the_programs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench.schema.json");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let hint = "write it again: calotype bench --schema > docs/bench.schema.json";
    assert!(kept == schema(), "{hint}");
    let folder = tempfile::tempdir().unwrap();
    let shown: Value = serde_json::from_str(&printed(folder.path(), &["--schema"])).unwrap();
    assert!(shown == kept);
}

/// By a library for JSON Schema, which is not the one that wrote it.
#[test]
fn reports_are_valid_by_their_schema() {
    let folder = tempfile::tempdir().unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let model = "model --model demo --sizes 64 --steps 1 --no-peaks --profile --save model.json";
    let words: Vec<&str> = model.split(' ').chain(["--repetitions", "5"]).collect();
    printed(folder.path(), &words);
    let serve = "serve --clients 2 --seconds 1 --size 64 --steps 1 --save serve.json";
    printed(folder.path(), &serve.split(' ').collect::<Vec<_>>());
    let mut files = vec![docs.join("bench.schema.json")];
    files.push(MEASURED.0.join("kernels.json"));
    files.extend(["model.json", "serve.json"].map(|name| folder.path().join(name)));
    let sent = std::fs::read_dir(docs.join("results")).unwrap();
    files.extend(sent.map(|entry| entry.unwrap().path()));
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    server::run_client("bench_schema.py", &files);
}

/// A report with one row of `samples`.
fn report(folder: &Path, name: &str, samples: &[f64], change: impl Fn(&mut Value)) {
    let summary = serde_json::to_value(Summary::of(samples).unwrap()).unwrap();
    let mut report = json!({
        "schema": 1,
        "program": {"version": "0.1.0", "commit": "abc1234"},
        "date": "2026-11-27T00:00:00Z",
        "command": "calotype bench kernels",
        "device": {
            "adapter": "An Adapter", "backend": "vulkan", "vendor": 1, "device": 2,
            "kind": "DiscreteGpu", "driver": "d", "driver_info": "1.2",
            "subgroup_size": [32, 32], "shader_f16": true, "timestamps": true,
            "matrices": [], "max_binding": 1, "max_buffer": 1,
            "max_workgroup_storage": 1, "max_invocations": 1
        },
        "system": {
            "os": "o", "kernel": "k", "processor": "p", "cores": 8, "memory_bytes": 1,
            "environment": {}
        },
        "rows": [{
            "suite": "kernels", "name": "unet conv", "shape": "2x128x128x320->320 3x3",
            "timed_by": "device", "samples": samples, "warm_up": 1, "summary": summary
        }],
        "notes": []
    });
    change(&mut report);
    std::fs::write(folder.join(name), report.to_string()).unwrap();
}

#[test]
fn a_slower_report_fails_and_an_equal_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let around =
        |x: f64| -> Vec<f64> { (0..9).map(|i| x * (0.99 + 0.0025 * f64::from(i))).collect() };
    report(at, "a.json", &around(1.0), |_| {});
    report(at, "b.json", &around(1.1), |_| {});
    let slower = bench(at, &["compare", "a.json", "b.json"]);
    assert_eq!(slower.status.code(), Some(1));
    let rows = cells(&text(&slower.stdout));
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0][3], "1.100");
    assert_eq!(rows[0].last().unwrap(), "slower");

    let within = bench(at, &["compare", "a.json", "b.json", "--fail-above", "20%"]);
    assert_eq!(within.status.code(), Some(0));
    let equal = bench(
        at,
        &["compare", "a.json", "a.json", "--fail-above", "0", "--json"],
    );
    assert_eq!(equal.status.code(), Some(0));
    let json: Value = serde_json::from_str(&text(&equal.stdout)).unwrap();
    assert_eq!(json["rows"][0]["verdict"], "same");
    let faster = bench(at, &["compare", "b.json", "a.json", "--json"]);
    assert_eq!(faster.status.code(), Some(0));
    let json: Value = serde_json::from_str(&text(&faster.stdout)).unwrap();
    assert_eq!(json["rows"][0]["verdict"], "faster");
}

/// One line on stderr that holds `named`, and a code of failure.
fn refuses(folder: &Path, code: i32, args: &[&str], named: &[&str]) {
    let output = bench(folder, args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(message.starts_with("error: "), "{args:?}: {message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{args:?}: {message}");
    for part in named {
        assert!(message.contains(part), "{args:?}: {message}");
    }
}

#[test]
fn wrong_arguments_are_named_with_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let kernels = |more: &[&'static str]| [&["kernels"], more].concat();
    refuses(
        at,
        2,
        &kernels(&["-o", "convolve"]),
        &["convolve", "attention", "product"],
    );
    refuses(
        at,
        2,
        &kernels(&["-o", "linear", "--shape", "64x640"]),
        &["64x640", "ROWSxKxCOLUMNS"],
    );
    refuses(
        at,
        2,
        &kernels(&["-o", "linear", "--shape", "64x0x640"]),
        &["64x0x640", "above 0"],
    );
    refuses(
        at,
        2,
        &kernels(&["-o", "linear", "--shape", "9999999x9999999x8"]),
        &["2^31"],
    );
    refuses(
        at,
        2,
        &kernels(&["-o", "group_norm", "--shape", "1x8x8x33"]),
        &["multiple of 32"],
    );
    refuses(at, 2, &kernels(&["--shape", "64x64x64"]), &["one op"]);
    refuses(
        at,
        2,
        &kernels(&["-o", "guidance", "--shape", "64"]),
        &["guidance", "linear"],
    );
    refuses(
        at,
        2,
        &kernels(&["no such case"]),
        &["no such case", "--list"],
    );
    refuses(
        at,
        2,
        &kernels(&["layer norm", "--variant", "coop99"]),
        &["coop99", "this adapter has"],
    );
    refuses(at, 2, &kernels(&["--repetitions", "4"]), &["4", "5"]);
    refuses(at, 1, &kernels(&["--shaders", "missing"]), &["missing"]);
    std::fs::create_dir(at.join("empty")).unwrap();
    refuses(
        at,
        1,
        &kernels(&["--shaders", "empty"]),
        &["empty", ".wgsl"],
    );
    refuses(
        at,
        2,
        &["model", "--sizes", "100"],
        &["100", "multiple of 8"],
    );
    refuses(at, 2, &["ab", "-o linear", "'"], &["quotation"]);
    refuses(
        at,
        2,
        &["ab", "-o linear", "--frobnicate"],
        &["--frobnicate"],
    );
    let other = ["ab", "--quick 'layer norm'", "--quick softmax"];
    refuses(at, 2, &other, &["layer norm", "softmax"]);
    refuses(
        at,
        2,
        &["compare", "a", "b", "--fail-above", "much"],
        &["much", "percentage"],
    );
}

#[test]
fn what_is_no_report_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let write = |name: &str, text: &str| std::fs::write(at.join(name), text).unwrap();
    report(at, "a.json", &[1.0; 5], |_| {});
    report(at, "other.json", &[1.0; 5], |r| {
        r["device"]["adapter"] = "Another".into()
    });
    report(at, "new.json", &[1.0; 5], |r| r["schema"] = 7.into());
    report(at, "odd.json", &[1.0; 5], |r| {
        r["rows"][0]["samples"] = "none".into()
    });
    report(at, "else.json", &[1.0; 5], |r| {
        r["rows"][0]["name"] = "another".into()
    });
    write("text.json", "not JSON");
    write("list.json", "{\"a\": 1}");
    let with = |b: &'static str| ["compare", "a.json", b];
    refuses(at, 1, &with("missing.json"), &["missing.json"]);
    refuses(at, 1, &with("text.json"), &["text.json", "no bench report"]);
    refuses(at, 1, &with("list.json"), &["list.json", "no schema"]);
    refuses(
        at,
        1,
        &with("new.json"),
        &["new.json", "schema is 7", "reads 1"],
    );
    refuses(at, 1, &with("odd.json"), &["odd.json", "rows[0].samples"]);
    refuses(at, 1, &with("other.json"), &["An Adapter", "Another"]);
    refuses(at, 1, &with("else.json"), &["else.json", "in common"]);
}

#[test]
fn the_page_of_results_is_what_the_files_say() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let folder = docs.join("results");
    let page = printed(&docs, &["results", folder.to_str().unwrap()]);
    let kept = std::fs::read_to_string(docs.join("results.md")).unwrap();
    let hint = "write it again: calotype bench results docs/results > docs/results.md";
    assert_eq!(page, kept, "{hint}");
    assert!(cells(&kept).len() > 3, "{kept}");
    let empty = tempfile::tempdir().unwrap();
    refuses(empty.path(), 1, &["results", "."], &["no .json file"]);
}
