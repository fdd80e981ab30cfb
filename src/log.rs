//! The binary's log: to stderr, without ever blocking or killing the node.
//!
//! Whoever logs only puts a line into a bounded queue; one thread of its own writes. A reader that is slow, stuck or
//! gone costs lines, which are counted, and nothing else. Lines that a peer can cause are limited before they reach the
//! queue, so that no peer can push out what matters, and are cut and cleaned, so that no peer can forge a line.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use simple_logger::SimpleLogger;

/// The target of every line that a peer can cause.
const PEER: &str = "chanrpc::peer";

/// The target of the access log: limited apart, and far less, as its lines are wanted.
const ACCESS: &str = "chanrpc::access";

/// The target of panics, which callers may be able to cause: limited too, but apart from peers' other lines.
const PANIC: &str = "chanrpc::panic";
const OWN: &str = "chanrpc::log";
const WRITER: &str = "log";

const QUEUE: usize = 1024;
/// Bytes of a line's text, the ellipsis of a cut one included.
const LONGEST: usize = 2048;
const SECOND: Duration = Duration::from_secs(1);

static SINK: Sink = Sink {
    queue: OnceLock::new(),
    waiting: AtomicUsize::new(0),
    dropped: AtomicUsize::new(0),
    level: AtomicUsize::new(LevelFilter::Off as usize),
    peers: Mutex::new(Limiter::new()),
    panics: Mutex::new(Limiter::new()),
    access: Mutex::new(Window::new()),
};

/// Sends what is logged at `level` or above to stderr, from now on and until the process ends, in lines such as
/// `INFO  [2026-11-21T04:49:00Z chanrpc::node] 3 connections`.
///
/// Also takes over panic messages: the standard ones are written by the thread that panics, and would block it as
/// long as nobody reads stderr. A panic hook that is set later, as servers do for their functions, may pass on to this
/// one; so this comes first in a program.
///
/// # Errors
/// Fails when the process has a logger already, which then stays.
pub fn init(level: LevelFilter) -> Result<(), SetLoggerError> {
    log::set_logger(&SINK)?;
    SINK.level.store(level as usize, Ordering::Relaxed);
    log::set_max_level(level);
    let (queue, lines) = sync_channel(QUEUE);
    // A process sets its logger once, so this comes by once.
    let _ = SINK.queue.set(queue);
    // Without its thread the log is lost, and every line counted as dropped; the node is worth more than its log.
    let _ = thread::Builder::new().name(WRITER.to_owned()).spawn(move || write_all(&lines));
    panic::set_hook(Box::new(|panic| {
        // The writer's panics are those of a stderr that is gone: to report them there would only make more.
        if thread::current().name() != Some(WRITER) {
            log::error!(target: PANIC, "{panic}");
        }
    }));
    Ok(())
}

/// Has the access log written whatever the level, which [`init`] has set for all else.
pub fn show_access() {
    log::set_max_level(log::max_level().max(LevelFilter::Info));
}

/// Writes a line to stderr as it is, without level, time and target; cut and cleaned like any other.
///
/// Before [`init`], the line is dropped.
pub fn note(text: &str) {
    SINK.send(Line::Note(clean(format_args!("{text}"))));
}

/// Waits until everything logged is written or lost, but no longer than `timeout`. Meant for the end of the process.
pub fn flush(timeout: Duration) {
    let started = Instant::now();
    while SINK.waiting.load(Ordering::Acquire) > 0 && started.elapsed() < timeout {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Tells how many lines never reached stderr, because it was too slow or gone. Those held back by the limit on peers
/// are not among them.
pub fn dropped() -> u64 {
    SINK.dropped.load(Ordering::Relaxed) as u64
}

/// What waits to be written.
enum Line {
    Record { time: SystemTime, level: Level, target: String, text: String },
    Note(String),
}

struct Sink {
    queue: OnceLock<SyncSender<Line>>,
    /// Lines in the queue, and the one that is being written.
    waiting: AtomicUsize,
    dropped: AtomicUsize,
    /// The level, as a number; the access log has none.
    level: AtomicUsize,
    peers: Mutex<Limiter>,
    panics: Mutex<Limiter>,
    access: Mutex<Window>,
}

impl Sink {
    fn send(&self, line: Line) {
        // Counted before it enters, so that the writer never takes away more than there is.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.queue.get().is_none_or(|queue| queue.try_send(line).is_err()) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn admits(&self, target: &str) -> bool {
        let now = Instant::now();
        match target {
            PEER => locked(&self.peers).admits(now),
            PANIC => locked(&self.panics).admits(now),
            // Half of the queue is for what else there is to say.
            ACCESS => {
                let has_room = self.waiting.load(Ordering::Relaxed) < QUEUE / 2;
                locked(&self.access).admits(now, has_room)
            }
            _ => true,
        }
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() as usize <= self.level.load(Ordering::Relaxed) || metadata.target() == ACCESS
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && self.admits(record.target()) {
            self.send(Line::Record {
                time: SystemTime::now(),
                level: record.level(),
                target: record.target().to_owned(),
                text: clean(*record.args()),
            });
        }
    }

    fn flush(&self) {}
}

/// The writer's loop. It sleeps until there is a line, and after the last one stays awake for a second, by the end of
/// which nothing can be left to report: whatever was held back came within a second of a line that was let through.
fn write_all(lines: &Receiver<Line>) {
    let mut report = Report::default();
    while let Ok(first) = lines.recv() {
        let mut next = Ok(first);
        let mut reported = Instant::now();
        while let Ok(line) = next {
            if !write(&line) {
                SINK.dropped.fetch_add(1, Ordering::Relaxed);
            }
            SINK.waiting.fetch_sub(1, Ordering::Release);
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

/// What the log has to say about itself: only what is new since the last time.
#[derive(Default)]
struct Report {
    dropped: usize,
}

impl Report {
    fn write(&mut self) {
        let dropped = SINK.dropped.load(Ordering::Relaxed);
        let new = dropped.wrapping_sub(self.dropped);
        self.dropped = dropped;
        if new > 0 {
            Self::warn(format!("{new} lines dropped, since nobody read them in time"));
        }
        let peers = std::mem::take(&mut locked(&SINK.peers).suppressed);
        let panics = std::mem::take(&mut locked(&SINK.panics).suppressed);
        let access = std::mem::take(&mut locked(&SINK.access).suppressed);
        for (suppressed, what, limit) in [
            (peers, PEER, Limiter::BURST),
            (panics, PANIC, Limiter::BURST),
            (access, ACCESS, Window::LINES as usize),
        ] {
            if suppressed > 0 {
                Self::warn(format!("{suppressed} lines of {what} held back, beyond {limit} a second"));
            }
        }
    }

    fn warn(text: String) {
        // A lost report is not counted: each would call for the next.
        write(&Line::Record { time: SystemTime::now(), level: Level::Warn, target: OWN.to_owned(), text });
    }
}

/// Writes one line to stderr and tells whether that went well. Blocks as long as stderr does.
fn write(line: &Line) -> bool {
    match line {
        Line::Note(text) => writeln!(io::stderr(), "{text}").is_ok(),
        Line::Record { time, level, target, text } => {
            // The formatter prints no time, but prints the target as it is.
            let target = format!("{} {target}", rfc3339(*time));
            // It panics when stderr is gone.
            panic::catch_unwind(|| {
                let args = format_args!("{text}");
                SimpleLogger::new().log(&Record::builder().level(*level).target(&target).args(args).build());
            })
            .is_ok()
        }
    }
}

/// Lets [`BURST`](Self::BURST) lines through in any second, and counts the rest.
struct Limiter {
    /// When the latest lines were let through; a ring.
    recent: [Option<Instant>; Self::BURST],
    oldest: usize,
    suppressed: u64,
}

impl Limiter {
    const BURST: usize = 10;

    const fn new() -> Self {
        Self { recent: [None; Self::BURST], oldest: 0, suppressed: 0 }
    }

    fn admits(&mut self, now: Instant) -> bool {
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

/// Held for a few instructions only, by threads that do nothing else meanwhile.
/// Lets [`LINES`](Self::LINES) lines through in each second on its own, and counts the rest.
struct Window {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Window {
    const LINES: u32 = 1000;

    const fn new() -> Self {
        Self { began: None, lines: 0, suppressed: 0 }
    }

    /// `has_room` says whether the queue has room for such a line.
    fn admits(&mut self, now: Instant, has_room: bool) -> bool {
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

fn locked<T>(limiter: &Mutex<T>) -> MutexGuard<'_, T> {
    limiter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Formats a text as a single bounded line that shows what it holds.
fn clean(args: fmt::Arguments<'_>) -> String {
    let mut line = Clean { text: String::new(), cut: false };
    // An error only says that the line is cut, or that what formats itself gave up.
    let _ = line.write_fmt(args);
    line.text
}

struct Clean {
    text: String,
    cut: bool,
}

impl fmt::Write for Clean {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const ELLIPSIS: char = '…';
        for c in text.chars() {
            // Not every formatter stops at the first error.
            if self.cut {
                return Err(fmt::Error);
            }
            let end = self.text.len();
            // Line breaks and terminal sequences, and what reorders the text that a person sees.
            if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                self.text.extend(c.escape_default());
            } else {
                self.text.push(c);
            }
            if self.text.len() > LONGEST - ELLIPSIS.len_utf8() {
                self.text.truncate(end);
                self.text.push(ELLIPSIS);
                self.cut = true;
            }
        }
        Ok(())
    }
}

/// Writes a time in UTC to the second, as in RFC 3339. The date is Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), for days since 1970.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that a leap day ends one; 400 of them, an era, always have as many days.
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
    fn ten_lines_in_any_second() {
        let mut limiter = Limiter::new();
        let start = Instant::now();
        let mut admitted = Vec::new();
        // 100 lines a second for three seconds.
        for tick in 0..300 {
            let now = start + Duration::from_millis(tick * 10);
            if limiter.admits(now) {
                admitted.push(now);
            }
        }
        assert_eq!(admitted.len(), 30);
        assert!(admitted.windows(11).all(|lines| lines[10] - lines[0] >= SECOND));
        assert_eq!(limiter.suppressed, 270);
    }

    #[test]
    fn the_access_log_has_a_limit_of_its_own_and_leaves_room() {
        let (mut window, start) = (Window::new(), Instant::now());
        let admitted = (0..3 * Window::LINES).filter(|_| window.admits(start, true)).count();
        assert_eq!(admitted, Window::LINES as usize);
        assert!(!window.admits(start + SECOND, false));
        assert!(window.admits(start + SECOND, true));
        assert_eq!(window.suppressed, u64::from(2 * Window::LINES) + 1);
    }

    #[test]
    fn slow_lines_all_pass() {
        let mut limiter = Limiter::new();
        let start = Instant::now();
        assert!((0..50).all(|tick| limiter.admits(start + Duration::from_millis(tick * 100))));
        assert_eq!(limiter.suppressed, 0);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let fits = "x".repeat(LONGEST - 3);
        assert_eq!(clean(format_args!("{fits}")), fits);
        assert_eq!(clean(format_args!("{fits}y")), format!("{fits}…"));
        let cut = clean(format_args!("{}", "é".repeat(LONGEST)));
        assert!(cut.ends_with("é…") && (LONGEST - 3..=LONGEST).contains(&cut.len()));
        // What comes after a cut is not even formatted.
        assert_eq!(clean(format_args!("{fits}y{}", "z")), format!("{fits}…"));
    }

    #[test]
    fn nothing_forges_a_line() {
        assert_eq!(clean(format_args!("a\r\nWARN b\t\0")), "a\\r\\nWARN b\\t\\u{0}");
        assert_eq!(
            clean(format_args!("\u{1b}[2J\u{9b}\u{85}\u{2028}\u{202e}")),
            "\\u{1b}[2J\\u{9b}\\u{85}\\u{2028}\\u{202e}"
        );
        assert_eq!(clean(format_args!("Grüße, \"x\" \\ 日本")), "Grüße, \"x\" \\ 日本");
    }

    #[test]
    fn times_in_utc() {
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
