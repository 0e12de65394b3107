//! The report: one table, ratios against Synapse, what is aimed at and whether it was reached.

use std::fmt::Write;

use resuni_testkit::Kind;

use crate::{
    goals::{self, GOALS},
    measure,
    scenarios::Sizes,
    table::{Best, Row, Run, best, times_better},
};

/// The runs as Markdown; `remarks` are put at the end.
pub fn markdown(runs: &[Run], sizes: &Sizes, remarks: Option<&str>) -> String {
    let mut text = format!("# {}\n\n", sizes.title);
    head(&mut text, runs, sizes);
    table(&mut text, runs);
    if sizes.aims {
        aims(&mut text, runs);
    }
    spread(&mut text, runs);
    if let Some(remarks) = remarks {
        let _ = write!(text, "\n{remarks}");
    }
    text
}

fn head(text: &mut String, runs: &[Run], sizes: &Sizes) {
    let mut names: Vec<String> = runs.iter().map(name).collect();
    names.sort();
    names.dedup();
    let loads = runs.iter().flat_map(|run| [run.load.0, run.load.1]);
    let (least, most) = loads.fold((f64::MAX, 0.0_f64), |(a, b), l| (a.min(l), b.max(l)));
    let _ = writeln!(
        text,
        "Written by `resuni-bench` (`{}`): {}, {} on one machine, through the public API only.\n\n\
         * Machine: {}, {}\n\
         * Load average while measuring, the load generator included: {least:.1} to {most:.1}\n\
         * One disk sync (4 KiB appended, fdatasync): {:.2} ms, median of 100\n\
         * {}Values are the best of the rounds, as other work on the machine makes them \
         worse and never better; the spread is below. Rates and times are the client's; CPU is what the server process \
         itself used for one operation\n",
        sizes.command,
        names.join(" and "),
        sizes.servers,
        measure::machine(),
        measure::system(),
        goals::disk_sync(runs).unwrap_or_default(),
        match sizes.bounded {
            true => format!(
                "At most {} sends or {} s a load. ",
                sizes.sends,
                sizes.send_time.as_secs()
            ),
            false => String::new(),
        },
    );
}

fn name(run: &Run) -> String {
    format!("{} {}", run.kind, run.version)
}

/// What was measured of any server, in order.
fn all(runs: &[Run]) -> Vec<&Row> {
    let mut rows: Vec<&Row> = Vec::new();
    for row in runs.iter().flat_map(|run| &run.rows) {
        if rows.iter().all(|known| known.what != row.what) {
            rows.push(row);
        }
    }
    rows
}

fn table(text: &mut String, runs: &[Run]) {
    text.push_str("| what | Resuni | CPU ms | Synapse | CPU ms | better by | less CPU by |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---:|\n");
    for row in all(runs) {
        let ours = best(runs, Kind::Resuni, row.what);
        let theirs = best(runs, Kind::Synapse, row.what);
        let (mut by, mut cpu_by) = (None, None);
        if let (Some(ours), Some(theirs)) = (&ours, &theirs) {
            by = times_better(&ours.row, ours.row.value, theirs.row.value);
            cpu_by = theirs.cpu_ms.zip(ours.cpu_ms).map(|(a, b)| a / b);
        }
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.name,
            cells(ours.as_ref()),
            cells(theirs.as_ref()),
            times(by),
            times(cpu_by),
        );
    }
}

fn cells(best: Option<&Best>) -> String {
    let Some(best) = best else {
        return "– | ".to_owned();
    };
    let cpu = best.cpu_ms.map(|ms| format!("{ms:.3}")).unwrap_or_default();
    format!("{} {} | {cpu}", number(best.row.value), best.row.unit)
}

fn times(by: Option<f64>) -> String {
    by.filter(|by| by.is_finite())
        .map(|by| format!("{}×", number(by)))
        .unwrap_or_default()
}

fn aims(text: &mut String, runs: &[Run]) {
    text.push_str("\n## What is aimed at\n\n| what | aim | |\n|---|---|---|\n");
    let rows = all(runs);
    for (what, goal) in GOALS {
        let Some(row) = rows.iter().find(|row| row.what == *what) else {
            continue;
        };
        let said = match goals::reached(runs, *what, *goal) {
            Some(true) => "reached",
            Some(false) => "**not reached**",
            None => "not measured",
        };
        let aim = goals::words(*goal, row.unit);
        let _ = writeln!(text, "| {} | {aim} | {said} |", row.name);
    }
}

fn spread(text: &mut String, runs: &[Run]) {
    text.push_str(
        "\n## Spread\n\nBest and worst of the rounds, and the latencies of the best one.\n\n",
    );
    text.push_str("| what | server | rounds | best | worst | in the best round |\n|---|---|---:|---:|---:|---|\n");
    for row in all(runs) {
        for kind in [Kind::Resuni, Kind::Synapse] {
            if let Some(found) = best(runs, kind, row.what) {
                spread_line(text, kind, &found);
            }
        }
    }
}

fn spread_line(text: &mut String, kind: Kind, found: &Best) {
    let Best {
        row, worst, rounds, ..
    } = found;
    let _ = writeln!(
        text,
        "| {} | {kind} | {rounds} | {} | {} | {} |",
        row.name,
        number(row.value),
        number(*worst),
        row.note
    );
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{
        What,
        tests::{row, run},
    };

    #[test]
    fn the_page_has_values_ratios_and_what_was_reached() {
        let ours = vec![row(What::Sends, 3000.0, true, Some(0.25))];
        let theirs = vec![row(What::Sends, 100.0, true, Some(10.0))];
        let runs = [run(Kind::Synapse, theirs), run(Kind::Resuni, ours)];
        let page = markdown(&runs, &Sizes::full(), Some("## Remarks\n"));
        let line = "| Sends | 3000 /s | 0.250 | 100 /s | 10.000 | 30.0× | 40.0× |";
        assert!(page.contains(line), "{page}");
        assert!(
            page.contains("| Sends | ≥ 20 × Synapse | reached |"),
            "{page}"
        );
        assert!(
            page.contains("| Sends | Synapse | 1 | 100 | 100 |"),
            "{page}"
        );
        assert!(page.ends_with("\n## Remarks\n"), "{page}");
    }

    #[test]
    fn one_server_alone_has_no_ratio() {
        let runs = [run(
            Kind::Resuni,
            vec![row(What::Sends, 3000.0, true, None)],
        )];
        let page = markdown(&runs, &Sizes::full(), None);
        assert!(
            page.contains("| Sends | 3000 /s |  | – |  |  |  |"),
            "{page}"
        );
        assert!(page.contains("≥ 20 × Synapse | not measured |"), "{page}");
    }
}
