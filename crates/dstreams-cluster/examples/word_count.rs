//! Words of the last ten seconds, on one machine or on many: the same program in every process.
//!
//! ```sh
//! word_count local -- 127.0.0.1:7000                   # alone; clients connect to this address
//! word_count master --listen 127.0.0.1:7077 --workers 2
//! word_count worker --master 127.0.0.1:7077            # twice, on this machine or on others
//! word_count status --master 127.0.0.1:7077
//! ```

use std::process::ExitCode;
use std::time::Duration;

use dstreams::{Clients, StreamContext, agg::count, text::words};

const INTERVAL: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    dstreams_cluster::main(|arguments| {
        let mut ctx = StreamContext::new(INTERVAL)?;
        // On a cluster every worker accepts records of clients, at an address of its own.
        let address = arguments.first().map_or("127.0.0.1:0", String::as_str);
        let lines = ctx.clients::<String>("lines", &Clients::listen(address));
        lines
            .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
            .keyed()
            .window_agg(WINDOW, INTERVAL, count())?
            .top(10)
            .print(10);
        Ok(ctx)
    })
}
