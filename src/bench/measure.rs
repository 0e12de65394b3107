//! What a process costs: CPU time and resident memory from `/proc`, bytes on disk, and what one
//! disk sync takes here.

use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

/// CPU time (user and system, all threads) a process has used, in milliseconds.
pub fn cpu_ms(pid: u32) -> anyhow::Result<f64> {
    // proc(5): utime and stime are fields 14 and 15, counted in clock ticks of 10 ms; the command
    // in parentheses may hold spaces, so count behind its end.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').context("odd /proc stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or_default()
    };
    Ok((ticks(11) + ticks(12)) * 10.0)
}

/// Resident memory of a process, in megabytes.
pub fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    status_mb(pid, "VmRSS:")
}

fn status_mb(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|l| l.starts_with(field))
        .with_context(|| format!("no {field}"))?;
    let kb: f64 = line
        .split_whitespace()
        .nth(1)
        .with_context(|| format!("no value of {field}"))?
        .parse()?;
    Ok(kb / 1024.0)
}

/// The most memory that a process had resident since [`forget_peak`], in megabytes.
pub fn peak_mb(pid: u32) -> anyhow::Result<f64> {
    status_mb(pid, "VmHWM:")
}

/// Begins to look for the most memory anew (proc(5), `clear_refs`).
pub fn forget_peak(pid: u32) -> anyhow::Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Bytes that the files below `dir` hold.
pub fn bytes_on_disk(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_on_disk(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The median time of appending 4 KiB to a file in `folder` and syncing it, in milliseconds.
pub fn disk_sync_ms(folder: &Path) -> anyhow::Result<f64> {
    let path = folder.join("disk-sync");
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    fs::remove_file(path)?;
    times.sort();
    Ok(times
        .get(50)
        .copied()
        .unwrap_or(Duration::ZERO)
        .as_secs_f64()
        * 1e3)
}

/// The processor's name and how many cores this machine lends us.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    format!(
        "{}, {cores} cores",
        model.trim_start_matches(['\t', ' ', ':'])
    )
}

/// The operating system's kernel and its version.
pub fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// The machine's load average over the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or_default()
}
