//! What a history has to bear: how big everything is, and how often each thing goes wrong.

use crate::dice::Dice;

/// Rates are in thousandths. Most are 0 in most histories, so that each fault is seen with few others as well
/// as with many.
#[derive(Debug, Default)]
pub struct Weather {
    pub portals: u64,
    /// Deliveries that are out at once.
    pub window: usize,
    pub actions: u64,
    /// Between two actions in HubSpot, at most, in milliseconds.
    pub pace_ms: u64,
    /// HubSpot and destinations are well: nothing may be stuck.
    pub fair: bool,
    pub half_budget: bool,
    pub associations: bool,
    /// A second destination wants events as they are.
    pub plain: bool,
    /// HubSpot's clock against ours, in milliseconds.
    pub clock_ahead_ms: u64,

    pub repeated: u64,
    pub late: u64,
    pub shuffled: u64,

    pub stale: u64,
    pub limited: u64,
    pub locked: u64,
    pub unavailable: u64,
    pub timed_out: u64,
    pub disconnected: u64,
    pub unreadable: u64,
    pub forbidden: u64,
    pub slow: u64,
    pub revoked: u64,
    pub poison: bool,
    pub others: bool,

    /// The destination of records refuses a copy for good.
    pub full: u64,
    pub refused_publish: u64,
    pub lost_confirm: u64,
    pub slow_confirm: u64,
    pub lost_session: u64,
    pub lost_backlog: u64,
    pub crash: u64,
    /// The process stops, and tells whoever comes next what it gives back.
    pub stop: u64,
    /// An event kills the process whenever it goes out.
    pub deadly: bool,
}

impl Weather {
    pub fn new(dice: &mut Dice) -> Self {
        let calls = |dice: &mut Dice| Self::rate(dice, 200);
        let mut weather = Self {
            portals: dice.between(1, 3),
            window: usize::try_from(dice.between(2, 40)).unwrap_or(2),
            actions: dice.between(5, 60),
            pace_ms: *dice.pick(&[50, 400, 3_000]).unwrap_or(&400),
            half_budget: dice.chance(200),
            associations: dice.chance(600),
            clock_ahead_ms: dice.below(2) * dice.below(20_000),
            repeated: Self::rate(dice, 300),
            late: Self::rate(dice, 200),
            shuffled: Self::rate(dice, 500),
            stale: Self::rate(dice, 500),
            limited: calls(dice),
            locked: calls(dice),
            unavailable: calls(dice),
            timed_out: calls(dice),
            disconnected: calls(dice),
            unreadable: calls(dice),
            forbidden: Self::rate(dice, 60),
            slow: Self::rate(dice, 300),
            revoked: Self::rate(dice, 60),
            poison: dice.chance(100),
            others: dice.chance(250),
            full: Self::rate(dice, 200),
            refused_publish: Self::rate(dice, 200),
            lost_confirm: Self::rate(dice, 200),
            slow_confirm: Self::rate(dice, 200),
            lost_session: Self::rate(dice, 40),
            lost_backlog: Self::rate(dice, 40),
            crash: Self::rate(dice, 20),
            stop: Self::rate(dice, 20),
            fair: dice.chance(250),
            plain: dice.chance(300),
            deadly: dice.chance(100),
        };
        if weather.fair {
            weather.mend();
        }
        weather
    }

    /// HubSpot and the destinations are well.
    fn mend(&mut self) {
        for rate in [
            &mut self.limited,
            &mut self.locked,
            &mut self.unavailable,
            &mut self.timed_out,
            &mut self.disconnected,
            &mut self.unreadable,
            &mut self.forbidden,
            &mut self.slow,
            &mut self.revoked,
            &mut self.full,
            &mut self.refused_publish,
            &mut self.lost_confirm,
            &mut self.slow_confirm,
        ] {
            *rate = 0;
        }
        self.others = false;
    }

    /// Nothing goes wrong any more.
    pub fn clear(&mut self) {
        *self = Self {
            window: self.window,
            associations: self.associations,
            half_budget: self.half_budget,
            fair: self.fair,
            plain: self.plain,
            clock_ahead_ms: self.clock_ahead_ms,
            poison: self.poison,
            deadly: self.deadly,
            ..Self::default()
        };
    }

    fn rate(dice: &mut Dice, worst: u64) -> u64 {
        if dice.chance(300) {
            dice.between(1, worst)
        } else {
            0
        }
    }
}
