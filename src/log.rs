//! The binary's log, written to stderr without ever blocking or killing the node.
//!
//! Logging only puts a line into a bounded queue; a separate thread writes it. If the reader of stderr is slow, stuck
//! or gone, lines are dropped and counted, nothing else. Lines that a peer can cause are rate-limited before they enter
//! the queue, so that no peer can displace other lines. All lines are truncated and sanitized, so that no peer can
//! forge one.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use simple_logger::SimpleLogger;

use crate::threads;

/// The target of all lines that a peer can cause.
const PEER: &str = "chanrpc::peer";

/// The target of the access log, which has its own, higher limit, because its lines are wanted.
const ACCESS: &str = "chanrpc::access";

/// The target of panics, which callers may be able to cause. They have their own limit, so that other lines of peers do
/// not displace them.
const PANIC: &str = "chanrpc::panic";
const LOG: &str = "chanrpc::log";
const WRITER: &str = "log";

/// The maximum number of lines in the queue, including the one being written. The channel itself has no limit: one that has
/// takes memory for all of them from the start.
const QUEUE: usize = 1024;
/// The maximum length of a line's text in bytes, including the ellipsis of a truncated one.
const MAX_LINE: usize = 2048;
const SECOND: Duration = Duration::from_secs(1);

static LOGGER: Logger = Logger {
    queue: OnceLock::new(),
    pending: AtomicUsize::new(0),
    dropped: AtomicUsize::new(0),
    level: AtomicUsize::new(LevelFilter::Off as usize),
    peers: Mutex::new(SlidingWindow::new()),
    panics: Mutex::new(SlidingWindow::new()),
    access: Mutex::new(FixedWindow::new()),
};

/// Sends all records at `level` or above to stderr until the process ends, in lines such as
/// `INFO  [2026-11-21T04:49:00Z chanrpc::node] 3 connections`.
///
/// Also takes over panic messages. The standard hook writes them on the panicking thread, which would block while
/// nobody reads stderr. A panic hook that is set later, as servers do for their functions, may call this one, so a
/// program calls `init` first.
///
/// # Errors
/// Fails if the process already has a logger, which stays in place.
pub(crate) fn init(level: LevelFilter) -> Result<(), SetLoggerError> {
    log::set_logger(&LOGGER)?;
    LOGGER.level.store(level as usize, Ordering::Relaxed);
    log::set_max_level(level);
    let (queue, lines) = channel();
    // `set_logger` succeeds once per process, so the queue is not set yet.
    let _ = LOGGER.queue.set(queue);
    // If the thread cannot be started, all lines are dropped and counted, but the node still runs.
    let _ = threads::spawn(WRITER, Box::new(move || run_writer(&lines)));
    panic::set_hook(Box::new(|panic| {
        // The writer panics if stderr is closed; reporting that there would cause the next panic.
        if thread::current().name() != Some(WRITER) {
            log::error!(target: PANIC, "{panic}");
        }
    }));
    Ok(())
}

/// Enables the access log independently of the level given to [`init`].
pub(crate) fn enable_access_log() {
    log::set_max_level(log::max_level().max(LevelFilter::Info));
}

/// Writes a line to stderr without level, time and target, truncated and sanitized like any other.
///
/// Before [`init`], the line is dropped.
pub(crate) fn print_line(text: &str) {
    LOGGER.send(Line::Plain(sanitize(format_args!("{text}"))));
}

/// Waits until all lines are written or dropped, but at most for `timeout`. Intended for the end of the process.
pub(crate) fn flush(timeout: Duration) {
    let started = Instant::now();
    while LOGGER.pending.load(Ordering::Acquire) > 0 && started.elapsed() < timeout {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A line to write.
enum Line {
    Record { time: SystemTime, level: Level, target: String, text: String },
    Plain(String),
}

struct Logger {
    queue: OnceLock<Sender<Line>>,
    /// Lines in the queue, including the one being written.
    pending: AtomicUsize,
    dropped: AtomicUsize,
    /// The level as a number. It does not apply to the access log.
    level: AtomicUsize,
    peers: Mutex<SlidingWindow>,
    panics: Mutex<SlidingWindow>,
    access: Mutex<FixedWindow>,
}

impl Logger {
    fn send(&self, line: Line) {
        // Count the line before it enters, so that the writer never decrements below zero.
        let has_room = self.pending.fetch_add(1, Ordering::Relaxed) < QUEUE;
        if !has_room || self.queue.get().is_none_or(|queue| queue.send(line).is_err()) {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn admit(&self, target: &str) -> bool {
        let now = Instant::now();
        match target {
            PEER => lock(&self.peers).admit(now),
            PANIC => lock(&self.panics).admit(now),
            // Half of the queue is reserved for other lines.
            ACCESS => {
                let has_room = self.pending.load(Ordering::Relaxed) < QUEUE / 2;
                lock(&self.access).admit(now, has_room)
            }
            _ => true,
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() as usize <= self.level.load(Ordering::Relaxed) || metadata.target() == ACCESS
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && self.admit(record.target()) {
            self.send(Line::Record {
                time: SystemTime::now(),
                level: record.level(),
                target: record.target().to_owned(),
                text: sanitize(*record.args()),
            });
        }
    }

    fn flush(&self) {}
}

/// The writer's loop. Sleeps until a line arrives, and after the last line stays awake for a second. Nothing is left to
/// report then, because lines are suppressed only within a second of a line that was admitted.
fn run_writer(lines: &Receiver<Line>) {
    let mut report = LossReport::default();
    while let Ok(first) = lines.recv() {
        let mut next = Ok(first);
        let mut reported = Instant::now();
        while let Ok(line) = next {
            if !write_line(&line) {
                LOGGER.dropped.fetch_add(1, Ordering::Relaxed);
            }
            LOGGER.pending.fetch_sub(1, Ordering::Release);
            if reported.elapsed() >= SECOND {
                report.write();
                reported = Instant::now();
            }
            next = lines.recv_timeout(SECOND);
        }
        report.write();
        if next.is_err_and(|error| error == RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Reports lines that were dropped or suppressed since the last report.
#[derive(Default)]
struct LossReport {
    dropped: usize,
}

impl LossReport {
    fn write(&mut self) {
        let dropped = LOGGER.dropped.load(Ordering::Relaxed);
        let new = dropped.wrapping_sub(self.dropped);
        self.dropped = dropped;
        if new > 0 {
            Self::warn(format!("{new} lines dropped because stderr was not read in time"));
        }
        let peers = std::mem::take(&mut lock(&LOGGER.peers).suppressed);
        let panics = std::mem::take(&mut lock(&LOGGER.panics).suppressed);
        let access = std::mem::take(&mut lock(&LOGGER.access).suppressed);
        for (suppressed, target, limit) in [
            (peers, PEER, SlidingWindow::BURST),
            (panics, PANIC, SlidingWindow::BURST),
            (access, ACCESS, FixedWindow::LINES as usize),
        ] {
            if suppressed > 0 {
                Self::warn(format!(
                    "{suppressed} lines of {target} suppressed, above the limit of {limit} per second"
                ));
            }
        }
    }

    fn warn(text: String) {
        // A lost report is not counted, because each would cause the next.
        write_line(&Line::Record {
            time: SystemTime::now(),
            level: Level::Warn,
            target: LOG.to_owned(),
            text,
        });
    }
}

/// Writes one line to stderr and returns `true` on success. Blocks while stderr does.
fn write_line(line: &Line) -> bool {
    match line {
        Line::Plain(text) => writeln!(io::stderr(), "{text}").is_ok(),
        Line::Record { time, level, target, text } => {
            // The formatter prints the target verbatim but no time, so the target carries the time.
            let target = format!("{} {target}", rfc3339(*time));
            // The formatter panics if stderr is closed.
            panic::catch_unwind(|| {
                let args = format_args!("{text}");
                SimpleLogger::new().log(&Record::builder().level(*level).target(&target).args(args).build());
            })
            .is_ok()
        }
    }
}

/// Admits [`BURST`](Self::BURST) lines in any one-second interval and counts the rest.
struct SlidingWindow {
    /// When the most recent lines were admitted; a ring buffer.
    recent: [Option<Instant>; Self::BURST],
    oldest: usize,
    suppressed: u64,
}

impl SlidingWindow {
    const BURST: usize = 10;

    const fn new() -> Self {
        Self { recent: [None; Self::BURST], oldest: 0, suppressed: 0 }
    }

    fn admit(&mut self, now: Instant) -> bool {
        let oldest = &mut self.recent[self.oldest];
        if oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) < SECOND) {
            self.suppressed += 1;
            return false;
        }
        *oldest = Some(now);
        self.oldest = (self.oldest + 1) % Self::BURST;
        true
    }
}

/// Admits [`LINES`](Self::LINES) lines in each fixed window of one second and counts the rest.
struct FixedWindow {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl FixedWindow {
    const LINES: u32 = 1000;

    const fn new() -> Self {
        Self { began: None, lines: 0, suppressed: 0 }
    }

    /// Returns `true` if a line is admitted; `has_room` says whether the queue has room for it.
    fn admit(&mut self, now: Instant, has_room: bool) -> bool {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= SECOND) {
            (self.began, self.lines) = (Some(now), 0);
        }
        let admitted = has_room && self.lines < Self::LINES;
        if admitted {
            self.lines += 1;
        } else {
            self.suppressed += 1;
        }
        admitted
    }
}

// The locks are held for a few instructions only.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Formats a text as a single bounded line with control characters escaped.
fn sanitize(args: fmt::Arguments<'_>) -> String {
    let mut line = Sanitizer { text: String::new(), is_truncated: false };
    // An error means that the line is truncated or that a formatter failed.
    let _ = line.write_fmt(args);
    line.text
}

struct Sanitizer {
    text: String,
    is_truncated: bool,
}

impl fmt::Write for Sanitizer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const ELLIPSIS: char = '…';
        for c in text.chars() {
            // Some formatters continue after an error.
            if self.is_truncated {
                return Err(fmt::Error);
            }
            let end = self.text.len();
            // Line breaks, terminal escape sequences, and characters that change the visual order of text.
            if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                self.text.extend(c.escape_default());
            } else {
                self.text.push(c);
            }
            if self.text.len() > MAX_LINE - ELLIPSIS.len_utf8() {
                self.text.truncate(end);
                self.text.push(ELLIPSIS);
                self.is_truncated = true;
            }
        }
        Ok(())
    }
}

/// Formats a time in UTC with second precision, as in RFC 3339. The date is computed by Howard Hinnant's
/// `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>), from the days since 1970.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that a leap day is the last day of a year. An era is 400 years, which always have
    // the same number of days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, turn) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + turn;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limiter_admits_ten_lines_in_any_second() {
        let mut limiter = SlidingWindow::new();
        let start = Instant::now();
        let mut admitted = Vec::new();
        // 100 lines per second for three seconds.
        for tick in 0..300 {
            let now = start + Duration::from_millis(tick * 10);
            if limiter.admit(now) {
                admitted.push(now);
            }
        }
        assert_eq!(admitted.len(), 30);
        assert!(admitted.windows(11).all(|lines| lines[10] - lines[0] >= SECOND));
        assert_eq!(limiter.suppressed, 270);
    }

    #[test]
    fn access_log_has_its_own_limit_and_respects_queue_room() {
        let (mut window, start) = (FixedWindow::new(), Instant::now());
        let admitted = (0..3 * FixedWindow::LINES).filter(|_| window.admit(start, true)).count();
        assert_eq!(admitted, FixedWindow::LINES as usize);
        assert!(!window.admit(start + SECOND, false));
        assert!(window.admit(start + SECOND, true));
        assert_eq!(window.suppressed, u64::from(2 * FixedWindow::LINES) + 1);
    }

    #[test]
    fn limiter_admits_all_lines_at_a_slow_rate() {
        let mut limiter = SlidingWindow::new();
        let start = Instant::now();
        assert!((0..50).all(|tick| limiter.admit(start + Duration::from_millis(tick * 100))));
        assert_eq!(limiter.suppressed, 0);
    }

    #[test]
    fn long_lines_are_truncated_between_characters() {
        let fits = "x".repeat(MAX_LINE - 3);
        assert_eq!(sanitize(format_args!("{fits}")), fits);
        assert_eq!(sanitize(format_args!("{fits}y")), format!("{fits}…"));
        let cut = sanitize(format_args!("{}", "é".repeat(MAX_LINE)));
        assert!(cut.ends_with("é…") && (MAX_LINE - 3..=MAX_LINE).contains(&cut.len()));
        // Arguments after the truncation are not even formatted.
        assert_eq!(sanitize(format_args!("{fits}y{}", "z")), format!("{fits}…"));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(sanitize(format_args!("a\r\nWARN b\t\0")), "a\\r\\nWARN b\\t\\u{0}");
        assert_eq!(
            sanitize(format_args!("\u{1b}[2J\u{9b}\u{85}\u{2028}\u{202e}")),
            "\\u{1b}[2J\\u{9b}\\u{85}\\u{2028}\\u{202e}"
        );
        assert_eq!(sanitize(format_args!("Grüße, \"x\" \\ 日本")), "Grüße, \"x\" \\ 日本");
    }

    #[test]
    fn formats_times_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
