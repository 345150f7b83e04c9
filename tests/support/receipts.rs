//! Receipts, and their sum over many publishes.

use fanout::{Bus, Receipt};

/// Returns the receipt of a publish that matched `delivered + dropped` messages.
pub fn receipt(delivered: usize, dropped: usize) -> Receipt {
    Receipt { matched: delivered + dropped, delivered, dropped }
}

/// The sum of the receipts of a thread.
#[derive(Clone, Copy, Default)]
pub struct ReceiptSum {
    pub publishes: u64,
    pub matched: u64,
    pub delivered: u64,
    pub dropped: u64,
}

impl ReceiptSum {
    #[track_caller]
    pub fn add(&mut self, receipt: Receipt) {
        assert_eq!(receipt.matched, receipt.delivered + receipt.dropped);
        self.publishes += 1;
        self.matched += receipt.matched as u64;
        self.delivered += receipt.delivered as u64;
        self.dropped += receipt.dropped as u64;
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            publishes: self.publishes + other.publishes,
            matched: self.matched + other.matched,
            delivered: self.delivered + other.delivered,
            dropped: self.dropped + other.dropped,
        }
    }

    /// Asserts that the statistics of `bus` count these publishes and no others.
    #[track_caller]
    pub fn assert_is_all_of<P: Clone + Send + 'static>(self, bus: &Bus<P>) {
        let stats = bus.stats();
        assert_eq!(
            (stats.published, stats.matched, stats.delivered, stats.dropped),
            (self.publishes, self.matched, self.delivered, self.dropped),
            "{stats:?}"
        );
    }
}
