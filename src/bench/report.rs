//! The report: one table, ratios against the first server.

use std::fmt::Write;

use crate::{
    measure,
    scenarios::{Results, Row, Sizes},
};

/// The run as Markdown.
pub fn markdown(results: &[Results], disk_sync_ms: f64, sizes: &Sizes) -> String {
    let mut text = String::from("# Performance\n\n");
    let names: Vec<&str> = results.iter().map(|r| r.server.as_str()).collect();
    let _ = writeln!(
        text,
        "Written by `make bench`: {}, in turn, on the same machine in one run, through the public API only.\n\n\
         * Machine: {}\n* One disk sync (4 KiB appended, fdatasync): {disk_sync_ms:.2} ms, median of 100\n\
         * Loads: at most {} sends or {} s each; rates are the client's, CPU is the server process's own per operation\n",
        names.join(" and "),
        measure::machine(),
        sizes.sends,
        sizes.send_time.as_secs(),
    );
    let Some(first) = results.first() else {
        return text;
    };
    text.push_str("| what |");
    for name in &names {
        let _ = write!(text, " {name} | CPU ms |");
    }
    text.push_str(if results.len() > 1 {
        " better by |\n|---|"
    } else {
        "\n|---|"
    });
    text.push_str(&"---:|---:|".repeat(results.len()));
    text.push_str(if results.len() > 1 { "---:|\n" } else { "\n" });
    for (index, row) in first.rows.iter().enumerate() {
        let _ = write!(text, "| {} |", row.name);
        for result in results {
            match result.rows.get(index) {
                Some(row) => {
                    let cpu = row.cpu_ms.map(|c| format!("{c:.3}")).unwrap_or_default();
                    let _ = write!(text, " {} {} | {cpu} |", number(row.value), row.unit);
                }
                None => text.push_str(" – | |"),
            }
        }
        if let Some(last) = results
            .last()
            .filter(|_| results.len() > 1)
            .and_then(|r| r.rows.get(index))
        {
            let _ = write!(text, " {} |", ratio(row, last));
        }
        text.push('\n');
    }
    text.push_str("\nSpread:\n\n");
    for result in results {
        for row in result.rows.iter().filter(|r| !r.note.is_empty()) {
            let _ = writeln!(text, "* {}: {}: {}", result.server, row.name, row.note);
        }
    }
    text
}

fn ratio(base: &Row, other: &Row) -> String {
    let (numerator, denominator) = if base.more_is_better {
        (other.value, base.value)
    } else {
        (base.value, other.value)
    };
    if denominator <= 0.0 {
        return "–".to_owned();
    }
    format!("{}×", number(numerator / denominator))
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
