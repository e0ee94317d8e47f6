//! probe
use crate::helpers::broker;
#[test]
fn probe() {
    let t = std::time::Instant::now();
    let b = broker::shared();
    eprintln!("{:?} {}", t.elapsed(), b.url());
    eprintln!("{}", b.ctl(&["status"]));
}
