//! Tests with real programs.

use std::env;
use std::fs;
use std::path::Path;
use std::process;
use std::thread;
use std::time::Instant;

use smol::block_on;

use super::*;

/// Far longer than any run here takes, unless it hangs.
const LONG: Duration = Duration::from_secs(30);

fn program(argv: &[&str]) -> Program {
    let argv = argv.iter().map(ToString::to_string).collect();
    Program {
        launch: Launch { argv, directory: None, environment: Arc::default(), of_call: Vec::new() },
        stdin: Vec::new(),
        timeout: LONG,
        output_limit: 1 << 20,
    }
}

fn program_in(directory: &Path, program: Program) -> Program {
    let launch = Launch { directory: Some(directory.to_owned()), ..program.launch };
    Program { launch, ..program }
}

fn sh(script: &str) -> Program {
    program(&["sh", "-c", script])
}

fn finish(program: Program) -> ProgramOutput {
    block_on(run(program)).expect("the program exits")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8").trim()
}

/// Returns the state letter of a process; `None` once it has been reaped.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn reaped(pid: &str) -> bool {
    state(pid).is_none()
}

/// Returns `true` if a process has ended. An orphan may stay a zombie until the system's PID 1 reaps it.
fn dead(pid: &str) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

fn eventually(condition: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "timeout: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A temporary directory of one test, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("chanrpc-program-{}-{test}", process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    /// Returns the words of a file, once its line is complete.
    fn words(&self, file: &str) -> Option<Vec<String>> {
        let line = fs::read_to_string(self.0.join(file)).ok()?;
        let line = line.strip_suffix('\n')?;
        Some(line.split(' ').map(str::to_string).collect())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn stdin_reaches_the_program_and_stdout_comes_back() {
    let finished = finish(Program { stdin: b"hello".to_vec(), ..program(&["cat"]) });
    assert_eq!((finished.exit, finished.signal), (Some(0), None));
    assert_eq!(finished.stdout, b"hello");
    assert_eq!(finished.stderr, b"");
}

#[test]
fn empty_stdin_ends_at_once() {
    let finished = finish(program(&["cat"]));
    assert_eq!((finished.exit, finished.stdout), (Some(0), Vec::new()));
}

#[test]
fn no_shell_interprets_arguments() {
    let finished = finish(program(&["printf", "%s|", "$HOME; echo no", "*", ""]));
    assert_eq!(text(&finished.stdout), "$HOME; echo no|*||");
}

#[test]
fn program_runs_in_the_given_directory() {
    let directory = Directory::new("directory");
    let finished = finish(program_in(&directory.0, sh("echo here > file; pwd -P")));
    assert_eq!(directory.words("file"), Some(vec!["here".to_string()]));
    let asked = directory.0.canonicalize().expect("it exists");
    assert_eq!(Path::new(text(&finished.stdout)), asked);
}

#[test]
fn exit_code_and_stderr_are_returned() {
    let finished = finish(sh("echo out; echo why >&2; exit 3"));
    assert_eq!((finished.exit, finished.signal), (Some(3), None));
    assert_eq!((text(&finished.stdout), text(&finished.stderr)), ("out", "why"));
}

#[test]
fn signal_is_returned() {
    let finished = finish(sh("kill -9 $$"));
    assert_eq!((finished.exit, finished.signal), (None, Some(9)));
}

#[test]
fn only_the_end_of_stderr_is_kept() {
    let finished = finish(sh("yes 0123456 | head -c 3000000 >&2; echo last >&2"));
    assert_eq!(finished.stderr.len(), stderr::TAIL);
    assert!(finished.stderr.ends_with(b"\n0123456\nlast\n"));
}

#[test]
fn missing_program_or_directory_or_empty_argv_is_an_error() {
    let missing = "/no/such/thing";
    for program in [program(&[missing]), program(&[]), program_in(Path::new(missing), program(&["cat"]))] {
        let error = block_on(run(program)).expect_err("the start fails");
        assert!(matches!(error, ProgramError::NotStarted(_)), "{error:?}");
        assert!(error.to_string().starts_with("the program could not be started: "), "{error}");
        assert!(error.source().is_some());
    }
}

#[test]
fn timeout_kills_a_program_that_ignores_signals_and_its_children() {
    let stubborn = "trap '' TERM; sleep 1000 & echo $$ $! >&2; while :; do wait; done";
    let start = Instant::now();
    let result = block_on(run(Program { timeout: Duration::from_secs(2), ..sh(stubborn) }));
    assert!(start.elapsed() < LONG / 2);
    let Err(ProgramError::TimedOut { stderr }) = result else {
        panic!("{result:?}");
    };
    let (main, child) = text(&stderr).split_once(' ').expect("two numbers");
    eventually(|| reaped(main), "the main program is reaped");
    eventually(|| dead(child), "its child is dead");
}

#[test]
fn timeout_applies_to_a_program_that_has_closed_its_streams() {
    let result =
        block_on(run(Program { timeout: Duration::from_millis(300), ..sh("exec >&- 2>&-; sleep 1000") }));
    assert!(matches!(result, Err(ProgramError::TimedOut { .. })), "{result:?}");
}

#[test]
fn closing_streams_does_not_end_the_run() {
    let finished = finish(sh("echo early; exec >&- 2>&-; sleep 0.2; exit 4"));
    assert_eq!((finished.exit, text(&finished.stdout)), (Some(4), "early"));
}

#[test]
fn endless_output_is_killed_at_the_limit() {
    let start = Instant::now();
    let error = block_on(run(program(&["yes"]))).expect_err("the limit is exceeded");
    assert!(matches!(error, ProgramError::OutputLimit { limit: 1_048_576 }), "{error:?}");
    assert!(start.elapsed() < LONG / 2);
}

#[test]
fn output_of_exactly_the_limit_is_allowed() {
    let hundred = |limit| Program { output_limit: limit, ..sh("yes | head -c 100") };
    assert_eq!(finish(hundred(100)).stdout.len(), 100);
    assert!(matches!(block_on(run(hundred(99))), Err(ProgramError::OutputLimit { limit: 99 })));
    assert!(matches!(block_on(run(hundred(0))), Err(ProgramError::OutputLimit { limit: 0 })));
    assert_eq!(finish(hundred(usize::MAX)).stdout.len(), 100);
}

#[test]
fn endless_stderr_blocks_neither_the_timeout_nor_the_loop() {
    let turns = block_on(async {
        let mut turns = 0;
        let others = async {
            loop {
                Timer::after(Duration::from_millis(1)).await;
                turns += 1;
            }
        };
        let program = Program { timeout: Duration::from_millis(500), ..sh("yes >&2") };
        let error = or(run(program), others).await.expect_err("it is endless");
        assert!(
            matches!(error, ProgramError::TimedOut { ref stderr } if stderr.len() == stderr::TAIL),
            "{error:?}"
        );
        turns
    });
    assert!(turns >= 10, "the loop had {turns} turns in half a second");
}

#[test]
fn program_may_ignore_large_stdin() {
    let stdin = vec![b'x'; 5_000_000];
    let finished = finish(Program { stdin: stdin.clone(), ..sh("echo done") });
    assert_eq!((finished.exit, text(&finished.stdout)), (Some(0), "done"));
    let result = block_on(run(Program { stdin, timeout: Duration::from_millis(300), ..sh("sleep 1000") }));
    assert!(matches!(result, Err(ProgramError::TimedOut { .. })), "{result:?}");
}

#[test]
fn large_stdin_and_stdout_are_transferred_concurrently() {
    let stdin: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let finished = finish(Program { stdin: stdin.clone(), output_limit: 3_000_000, ..program(&["cat"]) });
    assert_eq!(finished.exit, Some(0));
    assert!(finished.stdout == stdin, "stdout differs from stdin");
}

#[test]
fn background_process_does_not_delay_the_result() {
    let start = Instant::now();
    let finished = finish(sh("sleep 1000 & echo $!; exit 5"));
    assert!(start.elapsed() < LONG / 2);
    assert_eq!(finished.exit, Some(5));
    let child = text(&finished.stdout);
    eventually(|| dead(child), "the background process is dead");
}

#[test]
fn silent_background_process_is_killed_with_the_run() {
    let finished = finish(sh("sleep 1000 > /dev/null 2>&1 & echo $!"));
    let child = text(&finished.stdout);
    eventually(|| dead(child), "the background process is dead");
}

#[test]
fn output_written_before_the_group_is_killed_is_complete() {
    let finished = finish(sh("yes | head -c 500000; yes >&2 & exit 6"));
    assert_eq!((finished.exit, finished.stdout.len()), (Some(6), 500_000));
}

#[test]
fn busy_loop_loses_no_output() {
    let others = async {
        loop {
            thread::sleep(GRACE);
            smol::future::yield_now().await;
        }
    };
    let finished = block_on(or(run(sh("yes | head -c 100000; sleep 1000 & exit 7")), others))
        .expect("the program exits");
    assert_eq!((finished.exit, finished.stdout.len()), (Some(7), 100_000));
}

#[test]
fn exited_program_is_reaped() {
    let finished = finish(sh("echo $$"));
    assert!(reaped(text(&finished.stdout)));
}

#[test]
fn program_killed_at_its_limit_is_reaped() {
    let directory = Directory::new("limit");
    let endless = program_in(&directory.0, sh("echo $$ > pid; exec yes"));
    assert!(block_on(run(endless)).is_err());
    let pids = directory.words("pid").expect("written before all output");
    eventually(|| reaped(&pids[0]), "the program is reaped");
}

#[test]
fn dropped_future_kills_the_whole_group() {
    let directory = Directory::new("dropped");
    let stubborn = sh("trap '' TERM; sleep 1000 & echo $$ $! > pids; while :; do wait; done");
    let endless = program_in(&directory.0, stubborn);
    let started = async {
        loop {
            if let Some(pids) = directory.words("pids") {
                return pids;
            }
            Timer::after(Duration::from_millis(2)).await;
        }
    };
    let pids = block_on(or(async { panic!("it ended: {:?}", run(endless).await) }, started));
    eventually(|| reaped(&pids[0]), "the main program is reaped");
    eventually(|| dead(&pids[1]), "its child is dead");
}

#[test]
fn fifty_concurrent_runs() {
    let executor = smol::LocalExecutor::new();
    let runs: Vec<_> = (0..50)
        .map(|n: usize| {
            let stdin = n.to_string().repeat(50_000).into_bytes();
            executor.spawn(run(Program { stdin, ..sh(&format!("cat; echo {n} >&2; exit {n}")) }))
        })
        .collect();
    block_on(executor.run(async {
        for (n, run) in runs.into_iter().enumerate() {
            let finished = run.await.expect("the program exits");
            assert_eq!(finished.exit, i32::try_from(n).ok());
            assert!(
                finished.stdout == n.to_string().repeat(50_000).into_bytes(),
                "run {n} differs: {} of {}",
                finished.stdout.len(),
                n.to_string().len() * 50_000
            );
            assert_eq!(text(&finished.stderr), n.to_string());
        }
    }));
}
