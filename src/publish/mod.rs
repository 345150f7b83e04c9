//! One publish to many inboxes.
//!
//! In the channel's turn: for each recipient a clone of the payload and a `try_send`, nothing more as
//! long as inboxes have room; and where there is one recipient alone, which is frequent, not even the
//! clone. After the turn: whatever runs user code or takes time, that is dropping
//! evicted payloads, ending disconnected subscribers, and waiting for room.

mod merge;
mod scratch;

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};
use hashbrown::HashSet;

use crate::engine::Engine;
use crate::event::Message;
use crate::inbox::{Inbox, Overflowed};
use crate::reentrancy::{Mark, for_each_then_resume};
use crate::source::{Handed, Kept, SourceRef};
use crate::stats::Receipt;
use crate::sync::{Ordering, RwLockReadGuard, add_exclusively};
use crate::trie::{
    Channel, Counters, Counts, Derived, Passed, PatternEntry, Recipient, Recipients, Route,
    Suspended, Turn,
};
use merge::Segment;
use scratch::{Lease, Scratch};

/// What a publish did. In two words, which come back in registers: three are written to memory as words, and mostly read
/// again in pieces of other sizes, for which the processor waits until they have reached its cache.
#[derive(Clone, Copy, Default)]
pub(crate) struct Done {
    delivered: usize,
    dropped: usize,
}

impl Done {
    /// A publish that reached a recipient so often, and lost nothing.
    #[inline]
    fn delivered(delivered: usize) -> Self {
        Self { delivered, dropped: 0 }
    }
}

impl From<Done> for Receipt {
    #[inline]
    fn from(Done { delivered, dropped }: Done) -> Self {
        Self { matched: delivered + dropped, delivered, dropped }
    }
}

/// What became of a publish to an entry. One beside the other, though only one of them means anything: what is one of
/// several things is in memory, see [`Done`].
pub(crate) struct Outcome<P> {
    pub(crate) done: Done,
    /// How many patterns match.
    pub(crate) patterns: usize,
    /// The payload, where the entry was taken out of the trie before the publish had its turn.
    pub(crate) detached: Option<P>,
}

impl<P> Outcome<P> {
    #[inline(always)]
    fn done(done: Done, patterns: usize) -> Self {
        Self { done, patterns, detached: None }
    }

    fn detached(payload: P) -> Self {
        Self { done: Done::default(), patterns: 0, detached: Some(payload) }
    }
}

/// How many messages a publish on `channel` would make now: one for each subscription that matches.
/// How many patterns match comes with it; `None` where its entry is out of the trie.
///
/// # Complexity
///
/// Linear in the patterns that match, and in the recipients where one of them takes each message once.
pub(crate) fn match_count<P: Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
) -> Option<(usize, usize)> {
    if engine.trie.is_closed() {
        // The turn may be taken, by a publish that has outlived the closing.
        return Some((0, 0));
    }
    let mut turn = engine.trie.turn(channel);
    if turn.is_detached() {
        return None;
    }
    engine.trie.refresh_to_look(channel, &mut turn);
    Some((count(&turn), turn.patterns.len()))
}

/// The same for a name that has no entry.
pub(crate) fn match_count_unlisted<P: Send + 'static>(engine: &Engine<P>, name: &str) -> usize {
    if engine.trie.is_closed() {
        return 0;
    }
    let route = engine.trie.derive(name);
    let matched = count(&route);
    route.patterns.iter().for_each(|known| engine.trie.released(known.pattern()));
    matched
}

fn count<P: 'static>(route: &Route<P>) -> usize {
    let mut lease = Lease::take();
    let mut merge = mem::take(&mut lease.merge).recycled();
    merge.lock(&route.patterns);
    let lists = || [&route.exact].into_iter().chain(merge.lists());
    let mut matched = lists().map(Recipients::len).sum::<usize>();
    if lists().any(|recipients| recipients.deduplicating() > 0) {
        let repeated = lists()
            .flat_map(Recipients::places)
            .flatten()
            .filter(|recipient| recipient.inbox.settings().dedupe)
            .filter(|recipient| !lease.seen.insert(address(&recipient.inbox)))
            .count();
        matched -= repeated;
    }
    lease.merge = merge.recycled();
    matched
}

/// The look-up of a publish whose payload is made only if something matches: how many messages it would
/// make. One that would make none is counted as published.
pub(crate) fn probe<P: Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
) -> Option<(usize, usize)> {
    let (matched, patterns) = match_count(engine, channel)?;
    if matched == 0 {
        engine.trie.count(channel, Counts { published: 1, ..Counts::default() });
    }
    Some((matched, patterns))
}

fn address<P>(inbox: &Arc<Inbox<P>>) -> usize {
    Arc::as_ptr(inbox).addr()
}

/// Publishes `payload` on `channel` to all that match.
#[inline(always)]
pub(crate) fn publish<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
) -> Outcome<P> {
    let Some(mut turn) = engine.trie.try_turn(channel) else {
        let (mut patterns, mut detached) = (0, None);
        let done = publish_in_time(engine, channel, payload, &mut patterns, &mut detached);
        return Outcome { done, patterns, detached };
    };
    if !has_turn(engine, &turn) {
        return Outcome::detached(payload);
    }
    engine.trie.refresh(channel, &mut turn);
    // One recipient, by the channel itself: nothing is to be cloned, merged or told apart, no user code runs.
    if turn.patterns.is_empty()
        && let [Some(recipient)] = turn.exact.places()
        && let Some(source) = &turn.source
    {
        match send(recipient, payload, source.get()) {
            Ok(()) => {
                if recipient.inbox.asks_after() {
                    let delivered = asked_after(engine, channel, turn.suspend());
                    return Outcome::done(Done::delivered(delivered), 0);
                }
                add_exclusively(&recipient.entered, 1);
                channel.counters.add(Counts::of_one(1));
                turn.end();
                return Outcome::done(Done::delivered(1), 0);
            }
            // It is full: the common way knows what to do.
            Err(Message { payload, .. }) => {
                return publish_from(engine, channel, payload, None, turn);
            }
        }
    }
    publish_to_any(engine, channel, payload, None, turn)
}

/// Sends a message to a recipient; it comes back where there is no room.
#[inline(always)]
fn send<P>(recipient: &Recipient<P>, payload: P, source: SourceRef) -> Result<(), Message<P>> {
    recipient.to.send_message(payload, source)
}

trait SendMessage<P> {
    /// Sends a message of these parts; it comes back where there is no room.
    fn send_message(&self, payload: P, source: SourceRef) -> Result<(), Message<P>>;
}

/// The one call of `try_send`, so that crossbeam's code is inlined here. A message of several words that is handed on
/// through memory is read in other pieces than it was written in, for which the processor waits until they have reached
/// its cache; so it comes in registers, as far as it can, and is made right where it is written into the queue.
///
/// It is a method of crossbeam's own type because the compiler divides a program by the modules that types are defined
/// in, and inlines nothing large across: this it compiles together with `try_send`.
impl<P> SendMessage<P> for Sender<Message<P>> {
    #[inline(never)]
    fn send_message(&self, payload: P, source: SourceRef) -> Result<(), Message<P>> {
        self.try_send(Message { payload, source }).map_err(TrySendError::into_inner)
    }
}

/// Ends a publish that has sent to the one recipient there is, and is to ask after it. How often it was delivered.
#[cold]
#[inline(never)]
fn asked_after<P>(engine: &Engine<P>, channel: &Arc<Channel<P>>, turn: Suspended<'_, P>) -> usize {
    let turn = engine.trie.resume(channel, turn);
    let [Some(recipient)] = turn.exact.places() else {
        unreachable!("it has been sent to, and the turn is held since then")
    };
    let (delivered, void) = sent_to_one(recipient, false);
    channel.counters.add(Counts::of_one(delivered));
    turn.end();
    drop(void);
    delivered
}

/// Counts a message that was sent to a recipient, under its lock, and asks after it. How often it was
/// delivered; where it concerned nobody, a message comes back, to be dropped when the lock is free.
#[inline(always)]
fn sent_to_one<P>(recipient: &Recipient<P>, shared: bool) -> (usize, Option<Message<P>>) {
    let asked = recipient.inbox.asks_after();
    let void = if asked { recipient.inbox.sent() } else { None };
    let delivered = usize::from(void.is_none());
    if delivered > 0 {
        count_entered(recipient, shared);
    }
    (delivered, void)
}

/// Publishes to a name that was found to have no entry. Where it is to have one, the payload comes back, with the
/// patterns that match, if they are known.
///
/// One that reaches one recipient at most needs no turn: there is no other inbox that could get its message in
/// another order.
#[inline(never)]
pub(crate) fn publish_unlisted<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    name: &str,
    hash: u64,
    payload: P,
) -> Result<Receipt, (P, Option<Derived<P>>)> {
    let Handed { source, pattern } = match engine.trie.pass(name, hash) {
        Passed::Nobody => return Ok(Receipt::default()),
        Passed::Entry(derived) => return Err((payload, derived)),
        Passed::One(handed) => handed,
    };
    let recipients = pattern.read();
    let Some(recipient) = recipients.only() else {
        // Others have come, or it has gone.
        drop(recipients);
        engine.trie.released(&pattern);
        return Err((payload, None));
    };
    match send(recipient, payload, source) {
        Ok(()) => {
            let (delivered, void) = sent_to_one(recipient, true);
            drop(recipients);
            if delivered == 1 {
                engine.trie.count_passed(hash);
            } else {
                engine.trie.count_unlisted(hash, Counts::of_one(0));
            }
            engine.trie.released(&pattern);
            drop(void);
            Ok(Done::delivered(delivered).into())
        }
        Err(message) => Ok(overflow_unlisted(engine, hash, &pattern, recipients, message)),
    }
}

/// Ends a publish to a name that has no entry, whose one recipient was full.
#[cold]
#[inline(never)]
fn overflow_unlisted<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    hash: u64,
    pattern: &Kept<PatternEntry<P>>,
    recipients: RwLockReadGuard<'_, Recipients<P>>,
    message: Message<P>,
) -> Receipt {
    let mut after = After::new(engine, Books::Unlisted(hash));
    if recipients.blocking() > 0 {
        after.started = Some(Instant::now());
    }
    let Message { payload, source } = message;
    let mut slot = Some(payload);
    let mut counts = Counts::of_one(0);
    let source = source.into();
    let segment = Segment::of(&recipients, &source, true);
    // The last one gets the payload itself: no user code runs.
    let mut serving = Serving {
        slot: &mut slot,
        again: &mut None,
        remaining: 1,
        seen: None,
        barring: false,
        counts: &mut counts,
    };
    serving.serve(segment, &mut after);
    drop(recipients);
    engine.trie.count_unlisted(hash, counts);
    engine.trie.released(pattern);
    after.done(counts).into()
}

/// Publishes where the turn was taken: waits for it. The payload is put into `detached` where the entry is no more.
#[cold]
#[inline(never)]
fn publish_in_time<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    patterns: &mut usize,
    detached: &mut Option<P>,
) -> Done {
    if engine.trie.is_closed() {
        // The turn may be taken by a publish that has outlived the closing.
        *detached = Some(payload);
        return Done::default();
    }
    // Timeouts run from here.
    let started = Instant::now();
    #[cfg(test)]
    before_waiting::run();
    let mut turn = engine.trie.turn(channel);
    if !has_turn(engine, &turn) {
        *detached = Some(payload);
        return Done::default();
    }
    engine.trie.refresh(channel, &mut turn);
    let outcome = publish_to_any(engine, channel, payload, Some(started), turn);
    *patterns = outcome.patterns;
    outcome.done
}

/// Publishes in the turn, to whomever there is.
#[inline(always)]
fn publish_to_any<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    started: Option<Instant>,
    turn: Turn<'_, P>,
) -> Outcome<P> {
    let exact = &turn.exact;
    match turn.patterns.len() {
        0 if exact.len() > 1 && exact.blocking() == 0 => {
            Outcome::done(publish_to_exact(engine, channel, payload, started, turn.suspend()), 0)
        }
        1 if exact.len() == 0 => {
            let mut patterns = 1;
            let turn = turn.suspend();
            let done = publish_by_pattern(engine, channel, payload, started, turn, &mut patterns);
            Outcome::done(done, patterns)
        }
        _ => publish_from(engine, channel, payload, started, turn),
    }
}

/// Publishes in the turn, to whomever there is, from the beginning and the common way.
#[inline(always)]
fn publish_from<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    started: Option<Instant>,
    turn: Turn<'_, P>,
) -> Outcome<P> {
    let (begun, mut patterns) = (Begun::new(payload), 0);
    let done = publish_to_all(engine, channel, begun, started, turn.suspend(), &mut patterns);
    Outcome::done(done, patterns)
}

/// Whether a publish may go on in a turn that it has.
#[inline]
fn has_turn<P>(engine: &Engine<P>, turn: &Turn<'_, P>) -> bool {
    // Closing skips an entry whose turn is taken: whoever had it takes the entry apart, right after the turn. Until
    // then this publish can have it.
    !turn.is_detached() && !engine.trie.is_closed()
}

/// Publishes where one pattern matches and nobody has subscribed to the channel itself: to one recipient, as
/// `publish` does, if the pattern has one.
#[inline(never)]
fn publish_by_pattern<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    mut payload: P,
    started: Option<Instant>,
    turn: Suspended<'_, P>,
    matching: &mut usize,
) -> Done {
    let turn = engine.trie.resume(channel, turn);
    if let [known] = &turn.patterns[..] {
        let recipients = known.pattern().read();
        if let [Some(recipient)] = recipients.places() {
            match send(recipient, payload, known.prepaid().get()) {
                Ok(()) => {
                    let (delivered, void) = sent_to_one(recipient, true);
                    channel.counters.add(Counts::of_one(delivered));
                    // A pattern that nobody holds has no recipients: the common way sweeps it out next time.
                    drop(recipients);
                    turn.end();
                    drop(void);
                    return Done::delivered(delivered);
                }
                // It is full: the common way knows what to do.
                Err(message) => payload = message.payload,
            }
        }
    }
    publish_to_all(engine, channel, Begun::new(payload), started, turn.suspend(), matching)
}

/// Publishes to several recipients, all by the channel itself: while they have room, nothing of what else
/// `publish_to_all` is ready for is needed.
#[inline(never)]
fn publish_to_exact<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    started: Option<Instant>,
    turn: Suspended<'_, P>,
) -> Done {
    // Dropped from the last to the first, by unwinding too: the payload when the turn is over.
    let payload = payload;
    let _catch_up = CatchUp(engine);
    let turn = engine.trie.resume(channel, turn);
    let Some(source) = &turn.source else { unreachable!("made for the first subscriber") };
    let mut commit = Commit { counters: &channel.counters, counts: Counts::of_one(0) };
    let mark = Mark::set();
    let places = turn.exact.places();
    let Some(last) = places.iter().rposition(Option::is_some) else {
        unreachable!("there are several")
    };
    let mut at = 0;
    let trouble = loop {
        // The last one gets the payload itself.
        if at == last {
            let Some(recipient) = &places[at] else { unreachable!("it has been found") };
            break deliver(recipient, payload, source.get()).map_err(|trouble| (None, trouble));
        }
        let place = &places[at];
        if let Some(Some(later)) = places.get(at + 4) {
            later.inbox.prefetch();
        }
        if let Some(recipient) = place {
            if let Err(trouble) = deliver(recipient, payload.clone(), source.get()) {
                break Err((Some(payload), trouble));
            }
            commit.counts.delivered += 1;
        }
        at += 1;
    };
    drop(mark);
    match trouble {
        Ok(()) => {
            commit.counts.delivered += 1;
            let delivered = commit.counts.delivered as usize;
            drop(commit);
            turn.end();
            Done::delivered(delivered)
        }
        Err((payload, trouble)) => {
            let counts = mem::take(&mut commit.counts);
            drop(commit);
            // So far each of them was.
            let delivered = counts.delivered as usize;
            let (again, void, places, served) = match trouble {
                Trouble::Full(message) => (Some(message), None, at, delivered),
                Trouble::Void(message) => (None, Some(message), at + 1, delivered + 1),
            };
            let begun = Begun { payload, again, void, places, served, counts };
            // No pattern matches.
            publish_to_all(engine, channel, begun, started, turn.suspend(), &mut 0)
        }
    }
}

/// What came back from an inbox.
enum Trouble<P> {
    /// It is full.
    Full(Message<P>),
    /// Its end has been read: the message concerns nobody.
    Void(Message<P>),
}

/// Delivers a message to a recipient, whose list no other publish works on.
#[inline(always)]
fn deliver<P>(recipient: &Recipient<P>, payload: P, source: SourceRef) -> Result<(), Trouble<P>> {
    send(recipient, payload, source).map_err(Trouble::Full)?;
    if recipient.inbox.asks_after()
        && let Some(message) = recipient.inbox.sent()
    {
        return Err(Trouble::Void(message));
    }
    count_entered(recipient, false);
    Ok(())
}

/// How far a publish has come.
struct Begun<P> {
    /// The payload, for the recipients to come.
    payload: Option<P>,
    /// What the next recipient is to get, and found no room for.
    again: Option<Message<P>>,
    /// To be dropped when the turn is over.
    void: Option<Message<P>>,
    /// How many places of exact subscribers it is past.
    places: usize,
    /// How many recipients those had.
    served: usize,
    counts: Counts,
}

impl<P> Begun<P> {
    /// Not at all.
    fn new(payload: P) -> Self {
        let (payload, counts) = (Some(payload), Counts::of_one(0));
        Self { payload, again: None, void: None, places: 0, served: 0, counts }
    }
}

/// Publishes to any number of recipients, in their turn.
#[inline(never)]
fn publish_to_all<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    begun: Begun<P>,
    started: Option<Instant>,
    turn: Suspended<'_, P>,
    matching: &mut usize,
) -> Done {
    // Locals are dropped from the last to the first, by unwinding too: what `after` holds runs user code then,
    // and must do so when the turn is over. So does the payload.
    let Begun { payload: mut slot, mut again, void, places, served, counts } = begun;
    let mut after = After::new(engine, Books::Entry(channel));
    if let Some(message) = void {
        after.void(message);
    }
    after.started = started;
    let mut turn = engine.trie.resume(channel, turn);
    let patterns = &turn.patterns[..];
    let mut commit = Commit { counters: &channel.counters, counts };
    let takes_once = |recipients: &Recipients<P>| recipients.deduplicating() > 0;
    let exact = &turn.exact;
    let mut remaining = exact.len() - served;
    let mut blocking = exact.blocking();
    // One pattern is locked as it is; several are merged, in buffers used again.
    let mut single = None;
    let mut lease = None;
    let mut merge = None;
    // Where some inboxes take a message once, whichever subscription it comes by: those served.
    let mut seen = None;
    match patterns {
        [] => {}
        [known] => {
            let recipients = known.pattern().read();
            remaining += recipients.len();
            blocking += recipients.blocking();
            if takes_once(exact) || takes_once(&recipients) {
                seen = Some(&mut lease.insert(Lease::<P>::take()).seen);
            }
            single = Some((recipients, known.prepaid()));
        }
        _ => {
            let scratch = &mut **lease.insert(Lease::<P>::take());
            let merge = merge.insert(mem::take(&mut scratch.merge).recycled());
            merge.lock(patterns);
            remaining += merge.lists().map(Recipients::len).sum::<usize>();
            blocking += merge.lists().map(Recipients::blocking).sum::<usize>();
            if takes_once(exact) || merge.lists().any(takes_once) {
                seen = Some(&mut scratch.seen);
            }
        }
    }
    if blocking > 0 {
        after.started.get_or_insert_with(Instant::now);
    }
    let mark = Mark::set();
    let mut serving = Serving {
        slot: &mut slot,
        again: &mut again,
        remaining,
        seen,
        barring: false,
        counts: &mut commit.counts,
    };
    if let Some(source) = &turn.source {
        serving.serve(Segment::of(exact, source, false).past(places), &mut after);
    }
    if let Some((recipients, source)) = &single {
        serving.serve(Segment::of(recipients, source, true), &mut after);
    }
    if let Some(merge) = &mut merge {
        while let Some(segment) = merge.next(patterns) {
            serving.serve(segment, &mut after);
        }
    }
    drop(mark);
    let counts = commit.counts;
    drop(commit);
    *matching = patterns.len();
    drop(single);
    if let (Some(merge), Some(lease)) = (merge, &mut lease) {
        lease.merge = merge.recycled();
    }
    drop(lease);
    if *matching > 0 {
        turn.sweep();
        *matching = turn.patterns.len();
    }
    drop(turn);
    after.done(counts)
}

/// A publish on its way through the recipients.
struct Serving<'a, P> {
    /// The payload, until the last recipient gets it.
    slot: &'a mut Option<P>,
    /// What the first recipient gets, if that is made already.
    again: &'a mut Option<Message<P>>,
    /// Recipients to come.
    remaining: usize,
    /// Inboxes served, by address, where some take a message once.
    seen: Option<&'a mut HashSet<usize, foldhash::fast::RandomState>>,
    /// Whether some inboxes get nothing more in the turn.
    barring: bool,
    counts: &'a mut Counts,
}

/// A message that found an inbox full.
struct Full<'a, P> {
    recipient: &'a Recipient<P>,
    /// The number of the subscription.
    number: u64,
    message: Message<P>,
    counts: &'a mut Counts,
}

enum Answer<P> {
    /// Send it again.
    Again(Message<P>),
    Done,
    /// What else the publish has for this inbox is not to be sent in the turn: ask `bars`.
    DoneForIt,
}

/// What `Serving` asks where it does not go smoothly.
trait Desk<P> {
    /// What to do with a message that found no room, or is not to be sent.
    fn full(&mut self, full: Full<'_, P>) -> Answer<P>;

    /// Whether nothing is to be sent to this inbox in the turn: it has a message that waits, or has been
    /// disconnected, and room that it has got since must not let a later message overtake.
    fn bars(&self, inbox: &Arc<Inbox<P>>) -> bool;

    /// Takes a message that was sent to an inbox whose end has been read.
    fn void(&mut self, message: Message<P>);
}

impl<P: Clone> Serving<'_, P> {
    /// Sends to the recipients of `segment`.
    ///
    /// One function for all, not inlined: its caller has segments of three kinds.
    #[inline(never)]
    fn serve(&mut self, segment: Segment<'_, P>, desk: &mut dyn Desk<P>) {
        'recipients: for (at, place) in segment.places.iter().enumerate() {
            let Some(recipient) = place else { continue };
            let inbox = &recipient.inbox;
            self.remaining -= 1;
            if let Some(seen) = &mut self.seen
                && inbox.settings().dedupe
                && !seen.insert(address(inbox))
            {
                continue;
            }
            let barred = self.barring && desk.bars(inbox);
            let (mut payload, mut source) = match self.again.take() {
                Some(Message { payload, source }) => (payload, source),
                None => {
                    // The last one gets the payload itself.
                    let last = self.remaining == 0;
                    let payload = if last { self.slot.take() } else { self.slot.clone() };
                    let Some(payload) = payload else { return };
                    (payload, segment.source.get())
                }
            };
            loop {
                let message = if barred {
                    Message { payload, source }
                } else {
                    match send(recipient, payload, source) {
                        Ok(()) => break,
                        Err(message) => message,
                    }
                };
                let (number, counts) = (segment.numbers[at], &mut *self.counts);
                match desk.full(Full { recipient, number, message, counts }) {
                    Answer::Again(message) => Message { payload, source } = message,
                    Answer::Done => continue 'recipients,
                    Answer::DoneForIt => {
                        self.barring = true;
                        continue 'recipients;
                    }
                }
            }
            if inbox.asks_after()
                && let Some(message) = inbox.sent()
            {
                desk.void(message);
                continue;
            }
            count_entered(recipient, segment.shared);
            self.counts.delivered += 1;
        }
    }
}

/// Counts a message that entered an inbox by the subscription `recipient`.
#[inline]
fn count_entered<P>(recipient: &Recipient<P>, shared: bool) {
    if shared {
        // Relaxed: a sum, exact at rest.
        recipient.entered.fetch_add(1, Ordering::Relaxed);
    } else {
        add_exclusively(&recipient.entered, 1);
    }
}

/// Counts what a publish did, at the end of its turn or when it unwinds.
struct Commit<'a> {
    counters: &'a Counters,
    counts: Counts,
}

impl Drop for Commit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.counters.add(self.counts);
    }
}

/// Does, when it is dropped, what payloads dropped or cloned in a turn have left to be done.
struct CatchUp<'a, P>(&'a Engine<P>);

impl<P> Drop for CatchUp<'_, P> {
    #[inline]
    fn drop(&mut self) {
        self.0.catch_up();
    }
}

/// Where a publish is counted.
enum Books<'a, P> {
    Entry(&'a Arc<Channel<P>>),
    /// The channel has no entry, and its name this hash.
    Unlisted(u64),
}

impl<P> Books<'_, P> {
    /// Counts what happened when the turn was over.
    fn count(&self, engine: &Engine<P>, counts: Counts) {
        match self {
            Self::Entry(channel) => engine.trie.count(channel, counts),
            Self::Unlisted(hash) => engine.trie.count_unlisted(*hash, counts),
        }
    }
}

/// What is left to do when the turn is over. Nothing for a publish that met no full inbox.
struct After<'a, P: 'static> {
    engine: &'a Engine<P>,
    books: Books<'a, P>,
    /// When the publish began, where that matters.
    started: Option<Instant>,
    /// Holds what is left to do; taken when the first inbox is full.
    rare: Option<Lease<P>>,
    /// What has become of messages that waited for room, as far as it is not counted yet.
    waited: Counts,
}

impl<P> Desk<P> for After<'_, P> {
    #[cold]
    fn full(&mut self, full: Full<'_, P>) -> Answer<P> {
        let Full { recipient, number, message, counts } = full;
        let inbox = &recipient.inbox;
        let rare = self.rare_mut();
        match inbox.overflow(message, number) {
            Overflowed::Retry { message, evicted } => {
                counts.evicted += u64::from(evicted.is_some());
                rare.dead.extend(evicted);
                return Answer::Again(message);
            }
            Overflowed::Void(message) => {
                rare.dead.push(message);
                return Answer::Done;
            }
            Overflowed::Refused(message) => {
                rare.dead.push(message);
                counts.dropped += 1;
                return Answer::Done;
            }
            Overflowed::Disconnected(message) => {
                rare.dead.push(message);
                counts.dropped += 1;
                rare.disconnected.push(inbox.member());
            }
            Overflowed::Wait(wait) => {
                let recipient = Recipient::new(recipient.to.clone(), Arc::clone(inbox));
                rare.waits.push_back((recipient, wait));
            }
        }
        rare.barred.insert(address(inbox));
        Answer::DoneForIt
    }

    fn bars(&self, inbox: &Arc<Inbox<P>>) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.barred.contains(&address(inbox)))
    }

    #[cold]
    fn void(&mut self, message: Message<P>) {
        self.rare_mut().dead.push(message);
    }
}

impl<'a, P> After<'a, P> {
    #[inline]
    fn new(engine: &'a Engine<P>, books: Books<'a, P>) -> Self {
        Self { engine, books, started: None, rare: None, waited: Counts::default() }
    }

    fn rare_mut(&mut self) -> &mut Scratch<P> {
        self.rare.get_or_insert_with(Lease::take)
    }
}

impl<P: Clone> After<'_, P> {
    /// Does what is left to do for a publish that did this in its turn, and tells what it did in all.
    #[inline]
    fn done(&mut self, counts: Counts) -> Done {
        let (delivered, dropped) = (counts.delivered as usize, counts.dropped as usize);
        let mut done = Done { delivered, dropped };
        if self.rare.is_some() {
            self.settle_overflow(&mut done);
        }
        done
    }

    #[cold]
    fn settle_overflow(&mut self, done: &mut Done) {
        let Some(rare) = &mut self.rare else { return };
        disconnect(self.engine, &mut rare.disconnected);
        // Before waiting, so that payloads are not held while it lasts.
        rare.drop_dead();
        if rare.waits.is_empty() {
            return;
        }
        let started = self.started.unwrap_or_else(Instant::now);
        let counts = &mut self.waited;
        while let Some((recipient, wait)) = rare.waits.pop_front() {
            // A deadline beyond what the clock can say is none.
            let deadline = wait.timeout().and_then(|timeout| started.checked_add(timeout));
            let place = Some(recipient);
            match wait.finish(deadline, |message| send_again(&place, message, counts)) {
                None => place.iter().for_each(Recipient::settle),
                Some((message, is_lost)) => {
                    rare.dead.push(message);
                    counts.dropped += u64::from(is_lost);
                }
            }
        }
        let counts = mem::take(counts);
        done.delivered += counts.delivered as usize;
        done.dropped += counts.dropped as usize;
        self.books.count(self.engine, counts);
        rare.drop_dead();
    }
}

fn disconnect<P>(engine: &Engine<P>, members: &mut Vec<u64>) {
    if !members.is_empty() {
        for_each_then_resume(members.drain(..), |member| engine.disconnect(member));
    }
}

impl<P> Drop for After<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if let Some(rare) = &mut self.rare {
            // Something is left where the publish unwinds.
            disconnect(self.engine, &mut rare.disconnected);
            let mut counts = mem::take(&mut self.waited);
            while let Some((_, wait)) = rare.waits.pop_front() {
                if let Some((message, is_lost)) = wait.give_up() {
                    rare.dead.push(message);
                    counts.dropped += u64::from(is_lost);
                }
            }
            if counts.delivered + counts.dropped > 0 {
                self.books.count(self.engine, counts);
            }
        }
        self.engine.catch_up();
    }
}

/// Sends a message to the one recipient in `place`; it comes back where there is still no room.
fn send_again<P: Clone + 'static>(
    place: &Option<Recipient<P>>,
    message: Message<P>,
    counts: &mut Counts,
) -> Option<Message<P>> {
    let Message { payload, source } = message;
    let mut back = Back(None);
    let mut slot = Some(payload);
    let segment = Segment {
        places: std::slice::from_ref(place),
        numbers: &[0],
        source: &source.into(),
        shared: false,
    };
    let again = &mut None;
    let mut serving =
        Serving { slot: &mut slot, again, remaining: 1, seen: None, barring: false, counts };
    serving.serve(segment, &mut back);
    back.0
}

/// Takes back what found no room again.
struct Back<P>(Option<Message<P>>);

impl<P> Desk<P> for Back<P> {
    fn full(&mut self, full: Full<'_, P>) -> Answer<P> {
        self.0 = Some(full.message);
        Answer::Done
    }

    fn bars(&self, _: &Arc<Inbox<P>>) -> bool {
        false
    }

    fn void(&mut self, _: Message<P>) {
        // Outside every turn: it may be dropped here.
    }
}

/// What a test does right before a publish waits for a turn that is taken.
#[cfg(test)]
pub(crate) mod before_waiting {
    use std::cell::RefCell;

    type Code = Box<dyn FnOnce()>;

    thread_local! {
        static CODE: RefCell<Option<Code>> = const { RefCell::new(None) };
    }

    /// Has `code` run by the next publish of this thread that finds the turn taken.
    pub(crate) fn set(code: impl FnOnce() + 'static) {
        CODE.set(Some(Box::new(code)));
    }

    pub(super) fn run() {
        if let Some(code) = CODE.take() {
            code();
        }
    }

    /// `true` if what was set has been run.
    pub(crate) fn has_run() -> bool {
        CODE.with_borrow(Option::is_none)
    }
}
