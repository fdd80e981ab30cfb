//! A waterfall over two nodes: a shop reserves an article at one and collects its price at the other.

use std::sync::Arc;
use std::time::Duration;

use chanrpc::{CallError, Fault, Functions, Handle, Id1, Node, Remote, Responder, Scheduler};
use smol::Executor;

const RESERVE: Id1<String, u64> = Id1::new("stock.reserve");
const PAY: Id1<u64, u64> = Id1::new("bank.pay");
const BUY: Id1<String, u64> = Id1::new("buy");

struct Shop {
    me: Handle<Shop>,
    stock: Remote,
    bank: Remote,
}

impl Shop {
    /// Replies with the customer's balance. The loop handles other events meanwhile; the first error ends the chain.
    fn buy(&mut self, article: String, responder: Responder<u64>) {
        let sale = self.me.waterfall_with::<_, CallError>(article);
        let sale = sale.call(&self.stock, RESERVE).call(&self.bank, PAY).timeout(Duration::from_secs(20));
        let sale = sale.finish(|_, balance| match balance {
            Ok(balance) => responder.reply(balance),
            Err(error) => responder.fail(error),
        });
        sale.expect("fewer waterfalls are open than the settings allow");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The nodes: any programs, on any machines.
    let mut stock = Functions::exported();
    stock.register(RESERVE, |lamps: &mut u64, article: String| {
        *lamps = lamps.checked_sub(1).ok_or_else(|| Fault::new(404, format!("no {article} left")))?;
        Ok::<_, Fault>(30)
    })?;
    let mut bank = Functions::exported();
    bank.register(PAY, |balance: &mut u64, price| {
        *balance = balance.checked_sub(price).ok_or("not enough money")?;
        Ok::<_, &str>(*balance)
    })?;
    let stock = Node::builder("stock").serve(stock, 2).listen("127.0.0.1:0").start()?;
    let bank = Node::builder("bank").serve(bank, 50).listen("127.0.0.1:0").start()?;

    // The shop.
    let mut functions = Functions::new();
    functions.register_deferred(BUY, Shop::buy)?;
    let executor = Arc::new(Executor::new());
    let shop = Scheduler::new(&executor, functions, |me| Shop {
        me: me.clone(),
        stock: Remote::connect(stock.addresses()[0].to_string()),
        bank: Remote::connect(bank.addresses()[0].to_string()),
    });
    let client = shop.client();
    let _shop = executor.spawn(shop.run());
    smol::block_on(executor.run(async {
        assert_eq!(client.call(BUY, "lamp".to_owned()).await?, 20);
        for expected in ["not enough money", "no lamp left"] {
            let error = client.call(BUY, "lamp".to_owned()).await.expect_err(expected).to_string();
            println!("{error}");
            assert!(error.starts_with(expected));
        }
        Ok(())
    }))
}
