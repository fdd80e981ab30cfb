//! A program that stays: its stdin and stdout are one stream.

use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite};

use super::group::{Pipes, ProcessGroup};
use super::pipes::{InputStream, OutputPipe};
use super::stderr::LogLines;
use super::{Launch, StartError, start, within};

/// The number of discarded bytes that are read at once.
const DISCARD: usize = 4096;
/// The number of such reads before other tasks run.
const DISCARD_BUDGET: usize = 16;

/// A running program that stays. Dropping it kills its group.
pub(crate) struct Resident {
    group: ProcessGroup,
    stderr: OutputPipe,
    /// The end of its stderr.
    pub(crate) lines: LogLines,
}

impl Resident {
    /// Starts a program. Also returns its stdin and stdout.
    ///
    /// # Errors
    /// [`StartError`] if it cannot be started. Nothing of it has run.
    pub(crate) async fn start(launch: Launch) -> Result<(Self, Stdio), StartError> {
        let (group, pipes) = start(launch, InputStream::new).await?;
        let Pipes { stdin, stdout, stderr } = pipes;
        let (epoch, millis, is_deaf) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
        let activity = Arc::new(Activity { epoch, millis, is_deaf });
        let stdio = Stdio { stdin: Some(stdin), stdout, activity };
        Ok((Self { group, stderr, lines: LogLines::default() }, stdio))
    }

    /// Returns its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.group.id()
    }

    /// Returns `true` if it has exited, or its state cannot be read.
    pub(crate) fn has_exited(&mut self) -> bool {
        !matches!(self.group.status(), Ok(None))
    }

    /// Passes each line of its stderr to `log`, until the stream ends.
    pub(crate) async fn read_stderr(&mut self, log: &mut (dyn FnMut(&str) + Send)) {
        let Self { stderr, lines, .. } = self;
        while stderr.next(|chunk| lines.append(chunk, log)).await.unwrap_or(false) {}
    }

    /// Waits up to `limit` until it has exited, and kills what is left of its group. Returns its status, if it is known,
    /// whether it has exited without being killed, and its stderr.
    pub(crate) async fn end(
        mut self,
        limit: Duration,
        log: &mut (dyn FnMut(&str) + Send),
    ) -> (Option<ExitStatus>, bool, LogLines) {
        const KILLED: Duration = Duration::from_secs(1);
        let mut status = within(limit, self.group.imminent_exit()).await;
        let exited = status.is_some();
        self.group.kill();
        if !exited {
            status = within(KILLED, self.group.exit()).await;
        }
        let Self { group, mut stderr, mut lines } = self;
        drop(group);
        // What is lost here is a part of a log.
        let _ = stderr.drain(|chunk| lines.append(chunk, log)).await;
        lines.finish(log);
        (status.and_then(Result::ok), exited, lines)
    }

    /// Kills its group.
    pub(crate) fn kill(&mut self) {
        self.group.kill();
    }
}

/// What is known of a program from its stdin and stdout.
#[derive(Debug)]
pub(crate) struct Activity {
    epoch: Instant,
    /// When it wrote to its stdout last, in milliseconds.
    millis: AtomicU64,
    is_deaf: AtomicBool,
}

impl Activity {
    /// Returns the time of the last output, or of the start.
    pub(crate) fn last_output(&self) -> Instant {
        self.epoch + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    /// Returns `true` if the program has closed its stdin.
    pub(crate) fn is_deaf(&self) -> bool {
        self.is_deaf.load(Ordering::Relaxed)
    }

    fn note(&self) {
        let millis = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }
}

/// The stdin and stdout of a program, as one stream. Closing it closes stdin, and discards the rest of stdout.
pub(crate) struct Stdio {
    /// `None` once it is closed.
    stdin: Option<InputStream>,
    stdout: OutputPipe,
    activity: Arc<Activity>,
}

impl Stdio {
    /// Returns what is known of the program from this stream, as long as it exists.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Polls stdin, unless it is closed. An error means that the program has closed it: then this is pending for ever,
    /// since answers that the program has written before are still to be read, and what is not written is not sent.
    fn poll_stdin<T>(
        &mut self,
        poll: impl FnOnce(&mut InputStream) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(stdin) = &mut self.stdin else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        if self.activity.is_deaf() {
            return Poll::Pending;
        }
        let polled = poll(stdin);
        if let Poll::Ready(Err(_)) = polled {
            self.activity.is_deaf.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        polled
    }
}

impl AsyncRead for Stdio {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.stdout.poll_read(cx, into));
        self.activity.note();
        Poll::Ready(read)
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_stdin(|stdin| stdin.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stdin(|stdin| stdin.poll_flush(cx))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin = None;
        let mut discarded = [0; DISCARD];
        for _ in 0..DISCARD_BUDGET {
            if ready!(self.stdout.poll_read(cx, &mut discarded))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        // Other tasks run first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
