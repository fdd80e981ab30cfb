//! A service that numbers its commands: `cmd` returns a serial at once, `wait` returns the result of that serial.

use std::collections::HashMap;
use std::sync::Arc;

use chanrpc::sched::{PostHandle, ScheduleError};
use chanrpc::{CallError, Functions, Handle, Scheduler};
use smol::Executor;

/// The caller's end of the service, whose loop owns an account.
struct Account {
    service: Handle<i64>,
    running: HashMap<u64, PostHandle<i64>>,
}

impl Account {
    /// Queues a deposit and returns its serial. Commands run in the order of their serials.
    fn cmd(&mut self, amount: i64) -> Result<u64, ScheduleError> {
        let posted = self.service.post(move |balance| {
            *balance += amount;
            *balance
        })?;
        let serial = posted.serial();
        self.running.insert(serial, posted);
        Ok(serial)
    }

    /// Waits for a command and returns the balance after it, or `None` if the serial is unknown or was waited for.
    async fn wait(&mut self, serial: u64) -> Option<Result<i64, CallError>> {
        Some(self.running.remove(&serial)?.await)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let executor = Arc::new(Executor::new());
    let service = Scheduler::new(&executor, Functions::new(), |_| 0);
    let mut account = Account { service: service.handle(), running: HashMap::new() };
    let _service = executor.spawn(service.run());

    let (first, second) = (account.cmd(100)?, account.cmd(-30)?);
    assert!(first < second);
    smol::block_on(executor.run(async {
        // In any order; each result belongs to its serial.
        assert_eq!(account.wait(second).await, Some(Ok(70)));
        assert_eq!(account.wait(first).await, Some(Ok(100)));
        assert_eq!(account.wait(first).await, None);
    }));
    println!("commands {first} and {second} have run");
    Ok(())
}
