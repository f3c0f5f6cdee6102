use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::client::Client;
use crate::client::sandbox;

const CLIENTS: usize = 16;
const EACH: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_get_one_certificate_for_each_of_their_orders() {
    let sandbox = Arc::new(sandbox(|_| {}).await);
    let start = Instant::now();
    let work = (0..CLIENTS).map(|client| {
        let sandbox = Arc::clone(&sandbox);
        tokio::spawn(async move {
            let own = Client::registered(&sandbox).await;
            for certificate in 0..EACH {
                own.obtain(&sandbox, &[&format!("a{client}-{certificate}.example.test")]).await;
            }
        })
    });
    for client in work.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let rate = (CLIENTS * EACH) as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} certificates a second, the clients included");
    let issued = sandbox.ledger().issued();
    assert_eq!(issued.len(), CLIENTS * EACH);
    let orders: BTreeSet<_> = issued.iter().map(|issued| issued.order.as_str()).collect();
    let serials: BTreeSet<_> = issued.iter().map(|issued| issued.serial.as_str()).collect();
    assert_eq!((orders.len(), serials.len()), (CLIENTS * EACH, CLIENTS * EACH));
    let sequences: Vec<u64> = sandbox.ledger().entries().iter().map(|entry| entry.sequence).collect();
    assert!(sequences.iter().copied().eq(1..=sequences.len() as u64));
}
