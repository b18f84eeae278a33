//! A model of how a job is held, checked in every order of events: leases, takeovers, what a worker
//! hears, intents, packets, outcomes, and people who stop the batch or take its approval back, with a
//! few faults at any moment (a worker dies, is taken for dead, an answer or a packet is lost, an act
//! waits too long). What a worker decides, and who may act, are the functions that the executor and the
//! database's statement go by: [`course::next`] and [`course::may_act`].
//!
//! The model's transitions stand for one statement or one packet each. Time is not in it, but for this:
//! whoever takes a job over, or confirms a stop, has waited until no act can be sent any more that was
//! given before. What the database reads is read in one moment, so that races of two statements are not
//! in it either. A job that goes round for ever without a fault is not found: `eventually` is judged at
//! the ends of paths.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers as well")]

use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::course::{self, Happened, JobFacts, Sight, StepEffect, Stop, Then, Why};
use metalbot_core::domain::error_kind::ErrorClass;
use metalbot_core::domain::job::{JobEvent, JobState, next};
use stateright::{Checker, Model, Property};

/// A step of the plan.
#[derive(Clone, Copy, Debug)]
struct PlannedStep {
    effect: StepEffect,
    /// It brings the host to a safe end.
    finishing: bool,
    /// It lets the machine work on, and waits for its report.
    reported: bool,
}

const LOOK: PlannedStep =
    PlannedStep { effect: StepEffect::Reads, finishing: false, reported: false };
const OFF: PlannedStep =
    PlannedStep { effect: StepEffect::Repeatable, finishing: false, reported: false };
const ON: PlannedStep = PlannedStep { finishing: true, ..OFF };
const CYCLE: PlannedStep =
    PlannedStep { effect: StepEffect::Once, finishing: false, reported: false };
const REPORT: PlannedStep = PlannedStep { reported: true, ..OFF };

/// What is checked: a plan, and how much may go wrong.
struct Protocol {
    steps: Vec<PlannedStep>,
    faults: u8,
    /// Times that people stop the batch, resume it, or take the approval back.
    people: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    batch: BatchState,
    /// People were told that the batch is stopped.
    confirmed: bool,
    job: JobState,
    owner: Option<usize>,
    epoch: u8,
    step: usize,
    /// Attempt with an intent and no outcome.
    open: bool,
    /// An attempt that has ended acted.
    touched: bool,
    /// Acts were left out because the batch was cancelled.
    acts_skipped: bool,
    /// An intent was written at any time.
    begun: bool,
    /// Something happened to the job from outside since it was leased.
    news: bool,
    /// The job waits no longer.
    due: bool,
    /// The machine has claimed the open attempt.
    claimed: bool,
    /// It has reported that it is done.
    reported: bool,
    /// The deadline of the open attempt is over.
    late: bool,
    workers: [Worker; 2],
    /// How often the host did what each step asks for.
    host: Vec<u8>,
    faults: u8,
    people: u8,
    /// Rule that was broken.
    broken: Option<&'static str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Worker {
    epoch: u8,
    phase: Phase,
    step: usize,
    touched: bool,
    open: bool,
    inherited: bool,
    heard: Stop,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Idle,
    /// Waits until nothing can be sent that the worker before was allowed to.
    Settles,
    Decides(Happened),
    Asks,
    /// Has an act that may be sent while it is valid.
    Acts {
        valid: bool,
    },
    Sent {
        arrived: bool,
    },
    Looks,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Event {
    Lease(usize),
    /// The worker is taken for dead, rightly or not.
    Orphan,
    Die(usize),
    Hear(usize),
    Settle(usize),
    Decide(usize),
    Prove(usize),
    /// The intent is written, and its answer lost.
    ProveUnheard(usize),
    Expire(usize),
    Send(usize),
    /// The packet is lost.
    SendLost(usize),
    Answer(usize),
    AnswerLost(usize),
    Look(usize),
    LookFails(usize),
    /// The BMC shows the state from before an act.
    LookTooSoon(usize),
    Pause,
    Resume,
    Cancel,
    Confirm,
    TakeBack,
    /// The conductor queues, or cancels, what waits for its turn.
    Conduct,
    Claim,
    Report,
    Deadline,
}

const IDLE: Worker = Worker {
    epoch: 0,
    phase: Phase::Idle,
    step: 0,
    touched: false,
    open: false,
    inherited: false,
    heard: Stop::No,
};

impl World {
    fn stop(&self) -> Stop {
        match self.batch {
            BatchState::Running => Stop::No,
            BatchState::Paused => Stop::Paused,
            _ => Stop::Cancelled,
        }
    }

    /// Whether the database takes what this worker writes.
    fn is_of(&self, worker: usize) -> bool {
        self.job == JobState::Running
            && self.owner == Some(worker)
            && self.epoch == self.workers[worker].epoch
    }

    /// Nothing that was given may be sent any more.
    fn expire_all(&mut self) {
        for worker in &mut self.workers {
            if let Phase::Acts { valid } = &mut worker.phase {
                *valid = false;
            }
        }
    }

    fn change(&mut self, event: JobEvent) {
        self.job = next(self.job, event).unwrap();
        if self.job != JobState::Running {
            self.owner = None;
        }
    }

    /// People have changed the batch's state: who works on the job must see it.
    fn wake(&mut self) {
        if matches!(self.job, JobState::Running | JobState::Waiting) {
            (self.news, self.due) = (true, true);
        }
    }

    /// Parks the worker's job: until something happens, if nothing has that the worker has not seen.
    fn park(&mut self, at: usize, at_once: bool) {
        if self.is_of(at) {
            self.due = at_once || self.news;
            self.change(JobEvent::Park);
        }
        self.workers[at] = IDLE;
    }

    /// Writes the outcome of the worker's attempt and changes the job, if it is the worker's.
    fn write(&mut self, worker: usize, acted: bool, event: Option<JobEvent>) -> bool {
        if !self.is_of(worker) {
            self.workers[worker] = IDLE;
            return false;
        }
        (self.open, self.claimed, self.reported, self.late) = (false, false, false, false);
        self.touched |= acted;
        if let Some(event) = event {
            self.change(event);
            self.workers[worker] = IDLE;
        }
        true
    }
}

impl Protocol {
    fn effect(&self, worker: &Worker) -> StepEffect {
        self.steps[worker.step].effect
    }

    fn facts(&self, worker: &Worker) -> JobFacts {
        JobFacts {
            effect: self.effect(worker),
            finishing: self.steps[worker.step].finishing,
            touched: worker.touched || worker.open,
            inherited: worker.inherited,
            // How much fails is bounded by the number of faults.
            tries_left: true,
            time_left: true,
            looks_left: true,
            stop: worker.heard,
        }
    }

    /// What a look at the host tells of the worker's step.
    fn sight(&self, world: &World, worker: usize) -> Sight {
        let step = world.workers[worker].step;
        match self.steps[step].effect {
            _ if self.steps[step].reported => match (world.reported, world.late) {
                (true, _) => Sight::Done,
                (false, true) => Sight::GivenUp,
                (false, false) => Sight::Waits,
            },
            StepEffect::Reads => Sight::Done,
            StepEffect::Repeatable if world.host[step] > 0 => Sight::Done,
            StepEffect::Repeatable => Sight::NotDone,
            StepEffect::Once => Sight::Undecidable,
        }
    }

    fn prove(&self, world: &mut World, at: usize) -> Result<(), Why> {
        let worker = &world.workers[at];
        if !world.is_of(at) || worker.step != world.step {
            return Err(Why::Lost);
        }
        let touched = world.touched || world.open;
        course::may_act(world.batch, touched, self.steps[worker.step].finishing)
            .ok_or(Why::Stopped)?;
        (world.open, world.begun) = (true, true);
        Ok(())
    }

    fn send(&self, world: &mut World, at: usize, arrives: bool) {
        let worker = world.workers[at].clone();
        let newer_acts = world.workers.iter().any(|other| {
            other.epoch > worker.epoch && !matches!(other.phase, Phase::Idle | Phase::Settles)
        });
        // Nobody may know whether what a worker was allowed to do before it died was done.
        let finishing = self.steps[worker.step].finishing && world.begun;
        if newer_acts {
            world.broken = Some("an act was sent while a newer worker was at work");
        }
        if world.confirmed && !finishing {
            world.broken = Some("an act was sent after people were told that the batch is stopped");
        }
        if world.batch == BatchState::AwaitingApproval {
            world.broken = Some("an act was sent without an approval");
        }
        if arrives {
            world.host[worker.step] += 1;
        }
        if self.steps[worker.step].effect == StepEffect::Once && world.host[worker.step] > 1 {
            world.broken = Some("what may be done once was done twice");
        }
        world.workers[at].phase = Phase::Sent { arrived: arrives };
    }

    fn decide(&self, world: &mut World, at: usize, happened: Happened) {
        let worker = world.workers[at].clone();
        let then = course::next(self.facts(&worker), happened);
        let decides = |happened| Phase::Decides(happened);
        match then {
            Then::Begin => {
                world.workers[at].phase = match self.effect(&worker) {
                    StepEffect::Reads => Phase::Looks,
                    // It looks first, and sends nothing to a host that is already there.
                    StepEffect::Repeatable
                        if world.host[worker.step] > 0
                            && !worker.open
                            && !self.steps[worker.step].reported =>
                    {
                        decides(Happened::Begun(Sight::Done))
                    }
                    _ => Phase::Asks,
                };
            }
            Then::Wait => world.park(at, false),
            Then::Look => world.workers[at].phase = Phase::Looks,
            Then::Advance | Then::Skip => {
                let last = worker.step + 1 == self.steps.len();
                let skipped = then == Then::Skip && self.effect(&worker) != StepEffect::Reads;
                let event = last.then_some(match world.acts_skipped || skipped {
                    true => JobEvent::Stop,
                    false => JobEvent::Succeed,
                });
                if world.write(at, worker.open, event) && !last {
                    world.acts_skipped |= skipped;
                    world.step += 1;
                    let touched = worker.touched || worker.open;
                    world.workers[at] = Worker {
                        step: worker.step + 1,
                        touched,
                        open: false,
                        inherited: false,
                        phase: decides(Happened::Turned),
                        ..worker
                    };
                }
            }
            Then::Again | Then::Anew | Then::Later => {
                // Of an act that was refused, nothing was sent.
                let acted = worker.open && !matches!(happened, Happened::Refused(_));
                if world.write(at, acted, None) {
                    let worker = &mut world.workers[at];
                    worker.touched |= acted;
                    (worker.open, worker.inherited) = (false, false);
                    worker.phase = decides(Happened::Turned);
                }
            }
            Then::Fail => _ = world.write(at, worker.open, Some(JobEvent::Fail)),
            Then::Quarantine => _ = world.write(at, true, Some(JobEvent::Quarantine)),
            Then::Back => {
                let was_touched = world.host.iter().any(|times| *times > 0);
                if world.write(at, false, Some(JobEvent::Recall)) {
                    world.step = 0;
                    if was_touched {
                        world.broken = Some("a host was given back that was touched");
                    }
                }
            }
            Then::HandOver => world.park(at, true),
            Then::Leave => world.workers[at] = IDLE,
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            batch: BatchState::Running,
            confirmed: false,
            job: JobState::Queued,
            owner: None,
            epoch: 0,
            step: 0,
            open: false,
            touched: false,
            acts_skipped: false,
            begun: false,
            news: false,
            due: false,
            claimed: false,
            reported: false,
            late: false,
            workers: [IDLE, IDLE],
            host: vec![0; self.steps.len()],
            faults: self.faults,
            people: self.people,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        for at in 0..world.workers.len() {
            let worker = &world.workers[at];
            match worker.phase {
                Phase::Idle => {
                    let free = match world.job {
                        JobState::Queued => world.batch == BatchState::Running,
                        JobState::Waiting => world.due,
                        JobState::Running => world.owner.is_none(),
                        _ => false,
                    };
                    if free {
                        events.push(Event::Lease(at));
                    }
                    continue;
                }
                Phase::Settles => events.push(Event::Settle(at)),
                Phase::Decides(_) => events.push(Event::Decide(at)),
                Phase::Asks => {
                    events.push(Event::Prove(at));
                    if world.faults > 0 {
                        events.push(Event::ProveUnheard(at));
                    }
                }
                Phase::Acts { valid: true } => {
                    events.push(Event::Send(at));
                    if world.faults > 0 {
                        events.extend([Event::SendLost(at), Event::Expire(at)]);
                    }
                }
                Phase::Acts { valid: false } => events.push(Event::Expire(at)),
                Phase::Sent { arrived } => {
                    if arrived {
                        events.push(Event::Answer(at));
                    }
                    if !arrived || world.faults > 0 {
                        events.push(Event::AnswerLost(at));
                    }
                }
                Phase::Looks => {
                    events.push(Event::Look(at));
                    if world.faults > 0 {
                        events.extend([Event::LookFails(at), Event::LookTooSoon(at)]);
                    }
                }
            }
            events.push(Event::Hear(at));
            if world.faults > 0 {
                events.push(Event::Die(at));
            }
        }
        let owned = |owner: usize| {
            let worker = &world.workers[owner];
            worker.phase != Phase::Idle && worker.epoch == world.epoch
        };
        if let Some(owner) = world.owner
            && (world.faults > 0 || !owned(owner))
        {
            events.push(Event::Orphan);
        }
        if world.people > 0 && !world.job.is_ended() {
            match world.batch {
                BatchState::Running => {
                    events.extend([Event::Pause, Event::Cancel]);
                    if !world.begun {
                        events.push(Event::TakeBack);
                    }
                }
                BatchState::Paused | BatchState::AwaitingApproval => {
                    events.push(Event::Cancel);
                    if world.batch == BatchState::Paused && !world.begun {
                        events.push(Event::TakeBack);
                    }
                }
                _ => {}
            }
        }
        match world.batch {
            BatchState::Paused | BatchState::AwaitingApproval => events.push(Event::Resume),
            BatchState::Cancelled if !world.confirmed => events.push(Event::Confirm),
            _ => {}
        }
        if self.steps[world.step].reported && world.open && !world.job.is_ended() {
            let step = self.steps[world.step];
            let may_act = course::may_act(world.batch, true, step.finishing).is_some();
            if world.job == JobState::Waiting && !world.claimed && may_act {
                events.push(Event::Claim);
            }
            if world.claimed && !world.reported {
                events.push(Event::Report);
            }
            if !world.late && world.faults > 0 {
                events.push(Event::Deadline);
            }
        }
        if matches!(
            (world.job, world.batch),
            (JobState::Pending, BatchState::Running)
                | (JobState::Pending | JobState::Queued, BatchState::Cancelled)
        ) {
            events.push(Event::Conduct);
        }
    }

    fn next_state(&self, before: &World, event: Event) -> Option<World> {
        let mut world = before.clone();
        match event {
            Event::Lease(at) => {
                world.change(JobEvent::Lease);
                world.epoch += 1;
                let taken_over = before.job == JobState::Running;
                world.owner = Some(at);
                world.news = false;
                let phase = match (world.open, taken_over) {
                    (true, true) => Phase::Settles,
                    (true, false) => Phase::Looks,
                    (false, _) => Phase::Decides(Happened::Turned),
                };
                world.workers[at] = Worker {
                    epoch: world.epoch,
                    phase,
                    step: world.step,
                    touched: world.touched,
                    open: world.open,
                    inherited: world.open && taken_over,
                    heard: world.stop(),
                };
            }
            Event::Orphan => {
                let owner = world.owner.take()?;
                let worker = &before.workers[owner];
                if worker.phase != Phase::Idle && worker.epoch == world.epoch {
                    world.faults -= 1;
                }
            }
            Event::Die(at) => {
                world.workers[at] = IDLE;
                world.faults -= 1;
            }
            Event::Hear(at) => {
                if world.is_of(at) {
                    world.workers[at].heard = world.stop();
                } else if !matches!(
                    world.workers[at].phase,
                    Phase::Acts { .. } | Phase::Sent { .. }
                ) {
                    world.workers[at] = IDLE;
                }
            }
            Event::Settle(at) => {
                world.expire_all();
                world.workers[at].phase = Phase::Looks;
            }
            Event::Decide(at) => {
                let Phase::Decides(happened) = before.workers[at].phase else { return None };
                self.decide(&mut world, at, happened);
            }
            Event::Prove(at) => {
                let reported = self.steps[before.workers[at].step].reported;
                let proved = self.prove(&mut world, at);
                world.workers[at].open |= proved.is_ok();
                world.workers[at].phase = match proved {
                    Ok(()) if reported => Phase::Decides(Happened::Begun(Sight::Waits)),
                    Ok(()) => Phase::Acts { valid: true },
                    Err(why) => Phase::Decides(Happened::Refused(why)),
                };
            }
            Event::ProveUnheard(at) => {
                // The row is void, and closed by whatever is written next.
                let _ = self.prove(&mut world, at);
                world.workers[at].phase = Phase::Decides(Happened::Refused(Why::Late));
                world.faults -= 1;
            }
            Event::Expire(at) => {
                if before.workers[at].phase == (Phase::Acts { valid: true }) {
                    world.faults -= 1;
                }
                world.workers[at].phase = Phase::Decides(Happened::Refused(Why::Late));
            }
            Event::Send(at) => self.send(&mut world, at, true),
            Event::SendLost(at) => {
                self.send(&mut world, at, false);
                world.faults -= 1;
            }
            Event::Answer(at) => {
                world.workers[at].phase = Phase::Decides(Happened::Begun(Sight::Done));
            }
            Event::AnswerLost(at) => {
                if before.workers[at].phase == (Phase::Sent { arrived: true }) {
                    world.faults -= 1;
                }
                let unknown = Happened::Begun(Sight::Failed(ErrorClass::Unknown));
                world.workers[at].phase = Phase::Decides(unknown);
            }
            Event::Look(at) => {
                let sight = self.sight(&world, at);
                world.workers[at].phase = Phase::Decides(Happened::Looked(sight));
            }
            Event::LookFails(at) => {
                world.faults -= 1;
                let failed = Sight::Failed(ErrorClass::Transient);
                world.workers[at].phase = Phase::Decides(Happened::Looked(failed));
            }
            Event::LookTooSoon(at) => {
                world.faults -= 1;
                let step = self.steps[before.workers[at].step];
                if step.effect != StepEffect::Repeatable || step.reported {
                    return None;
                }
                world.workers[at].phase = Phase::Decides(Happened::Looked(Sight::NotDone));
            }
            Event::Pause => {
                (world.batch, world.people) = (BatchState::Paused, world.people - 1);
                world.wake();
            }
            Event::Cancel => {
                (world.batch, world.people) = (BatchState::Cancelled, world.people - 1);
                world.wake();
            }
            Event::TakeBack => {
                (world.batch, world.people) = (BatchState::AwaitingApproval, world.people - 1);
                world.expire_all();
            }
            Event::Resume => {
                world.batch = BatchState::Running;
                world.wake();
            }
            Event::Claim => {
                world.claimed = true;
                world.host[world.step] += 1;
                if world.confirmed {
                    world.broken =
                        Some("a machine was let to work after people were told of the stop");
                }
            }
            Event::Report => {
                (world.reported, world.news, world.due) = (true, true, true);
            }
            Event::Deadline => {
                (world.late, world.due) = (true, true);
                world.faults -= 1;
            }
            Event::Confirm => {
                world.expire_all();
                world.confirmed = true;
            }
            Event::Conduct => world.change(match world.batch {
                BatchState::Cancelled => JobEvent::Cancel,
                _ => JobEvent::Queue,
            }),
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        vec![
            Property::always("no rule is broken", |_, world: &World| world.broken.is_none()),
            Property::always(
                "a job that ended well was done",
                |protocol: &Protocol, world: &World| {
                    let acts = |step: &PlannedStep| step.effect != StepEffect::Reads;
                    let done = |(step, times): (&PlannedStep, &u8)| !acts(step) || *times > 0;
                    world.job != JobState::Succeeded
                        || protocol.steps.iter().zip(&world.host).all(done)
                },
            ),
            Property::eventually("the job ends", |_, world: &World| world.job.is_ended()),
            // That the model comes by what it is about.
            Property::sometimes(
                "a stopped host is brought to a safe end",
                |protocol: &Protocol, world: &World| {
                    let acted = |(step, times): (&PlannedStep, &u8)| step.finishing && *times > 0;
                    protocol.steps.iter().all(|step| !step.finishing)
                        || world.confirmed && protocol.steps.iter().zip(&world.host).any(acted)
                },
            ),
            Property::sometimes("another worker ends it", |_, world: &World| {
                world.epoch > 1 && world.job == JobState::Succeeded
            }),
        ]
    }
}

fn check(steps: &[PlannedStep]) {
    let protocol = Protocol { steps: steps.to_vec(), faults: 2, people: 2 };
    let checked = protocol.checker().threads(2).spawn_bfs().join();
    println!("{steps:?}: {} states", checked.unique_state_count());
    checked.assert_properties();
}

#[test]
fn one_act_that_cannot_be_repeated() {
    check(&[CYCLE]);
}

#[test]
fn off_and_on_again() {
    check(&[OFF, ON]);
}

#[test]
fn a_look_then_an_act_then_a_look() {
    check(&[LOOK, CYCLE, LOOK]);
}

#[test]
fn acts_of_each_kind() {
    check(&[OFF, CYCLE, ON]);
}

#[test]
fn a_machine_that_reports() {
    check(&[REPORT]);
}

#[test]
fn a_machine_that_is_turned_off_reports_and_is_brought_to_a_safe_end() {
    check(&[OFF, REPORT, ON]);
}
