//! The course of a job: what its worker does next, from what is known of the host and what has just
//! happened. Used by the executor, and by the model that goes through every order of events.
//!
//! [`may_act`] is the rule that the database's statement of an intent carries out.

use std::time::Duration;

use super::batch::BatchState;
use super::error_kind::ErrorClass;

/// Longest time between asking for an act and the packet that acts. Whoever takes a job over, or says that
/// a batch is stopped, waits as long, and then nothing can be sent any more.
pub const ACT_LIFETIME: Duration = Duration::from_secs(2);

/// What doing a step a second time would do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StepEffect {
    /// Only looks.
    Reads,
    /// Acts; twice is as once.
    Repeatable,
    /// Acts; twice would act twice.
    Once,
}

/// Kind of an act, by what was done to the host before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ActKind {
    /// The host was not touched yet.
    First,
    Further,
    /// Brings a touched host to a safe end.
    Finishing,
}

/// Why something must not be done to a host, or not any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// The batch does not run.
    Stopped,
    /// The job is another worker's by now, or nobody's.
    Lost,
    /// The process stops.
    Draining,
    /// The host's BMC is not the one that the batch was approved for.
    Changed,
    /// The database refuses the intent for what it is.
    Refused,
    /// The database has not answered in time, or the act waited longer than it was good for.
    Late,
}

/// Returns the kind of act that a host of a batch in this state may get; `None`: none.
///
/// A batch that waits for approval, or is paused, starts no host; what was touched goes on. One that
/// was cancelled gets finishing acts only, on hosts that were touched.
pub fn may_act(batch: BatchState, touched: bool, finishing: bool) -> Option<ActKind> {
    let kind = match (touched, finishing) {
        (false, _) => ActKind::First,
        (true, false) => ActKind::Further,
        (true, true) => ActKind::Finishing,
    };
    let allowed = match batch {
        BatchState::Running => true,
        BatchState::Paused => touched,
        _ => kind == ActKind::Finishing,
    };
    allowed.then_some(kind)
}

/// What a step says of itself, after it was begun or when it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sight {
    Done,
    /// It did not happen.
    NotDone,
    /// It is under way.
    Waits,
    /// Whether it happened cannot be seen.
    Undecidable,
    /// It was given up by who did it, or took too long: it is known that it will not happen.
    GivenUp,
    Failed(ErrorClass),
}

/// How far people have stopped a batch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Stop {
    #[default]
    No,
    /// Hosts that were touched go on.
    Paused,
    /// Hosts that were touched are brought to a safe end.
    Cancelled,
}

/// What is known when something happens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct JobFacts {
    pub effect: StepEffect,
    /// The step is one of those that bring a host to a safe end.
    pub finishing: bool,
    /// The host was, or may have been, touched, by this attempt as well.
    pub touched: bool,
    /// The attempt was begun by a worker that is gone.
    pub inherited: bool,
    /// The step may be tried once more.
    pub tries_left: bool,
    /// The step's deadline leaves time for that.
    pub time_left: bool,
    /// The host may be asked once more what became of an act.
    pub looks_left: bool,
    pub stop: Stop,
}

/// Something that happened to a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Happened {
    /// A worker turns to the step.
    Turned,
    /// The step was begun, and says this.
    Begun(Sight),
    /// An attempt that acted, or may have, was looked at.
    Looked(Sight),
    /// Nothing was sent, for this reason.
    Refused(Why),
}

/// What follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Then {
    /// Begin the step.
    Begin,
    /// The attempt succeeded: go on with the next step.
    Advance,
    /// Leave the step out, and go on with the next.
    Skip,
    /// End the attempt and try the step again, which costs one of its tries.
    Again,
    /// End the attempt, which cost nothing, and try again.
    Anew,
    /// The same after a while, however often: what is missing is ours.
    Later,
    /// Wait until the step should be looked at.
    Wait,
    /// Ask the host what became of the act.
    Look,
    Fail,
    Quarantine,
    /// Give the job back: its host was not touched.
    Back,
    /// Hand the job to another worker, at once.
    HandOver,
    /// Do nothing more: what this worker writes does not count.
    Leave,
}

/// Decides what a worker does next. Every combination has an answer.
pub fn next(facts: JobFacts, happened: Happened) -> Then {
    use Then as T;
    let acts = facts.effect != StepEffect::Reads;
    match happened {
        Happened::Turned => match facts.stop {
            Stop::Paused | Stop::Cancelled if !facts.touched => T::Back,
            Stop::Cancelled if acts && !facts.finishing => T::Skip,
            _ => T::Begin,
        },
        Happened::Begun(Sight::Done) | Happened::Looked(Sight::Done) => T::Advance,
        // What others do to the host is not waited for once people have stopped it.
        Happened::Begun(Sight::Waits | Sight::GivenUp)
        | Happened::Looked(Sight::Waits | Sight::GivenUp)
            if facts.stop == Stop::Cancelled && acts && !facts.finishing =>
        {
            T::Skip
        }
        Happened::Begun(Sight::Waits) | Happened::Looked(Sight::Waits) => T::Wait,
        Happened::Begun(Sight::GivenUp) | Happened::Looked(Sight::GivenUp) => again(facts),
        Happened::Begun(Sight::NotDone) => again(facts),
        Happened::Begun(Sight::Undecidable) | Happened::Looked(Sight::Undecidable)
            if facts.effect == StepEffect::Once =>
        {
            T::Quarantine
        }
        // A crash of ours is not a failure of the host.
        Happened::Looked(Sight::NotDone | Sight::Undecidable) if facts.inherited => T::Anew,
        Happened::Looked(Sight::NotDone | Sight::Undecidable)
        | Happened::Begun(Sight::Undecidable) => again(facts),
        Happened::Begun(Sight::Failed(ErrorClass::Unknown)) if acts => T::Look,
        Happened::Begun(Sight::Failed(ErrorClass::Own)) => T::Later,
        Happened::Looked(Sight::Failed(ErrorClass::Own)) => T::Wait,
        Happened::Begun(Sight::Failed(ErrorClass::Rejected)) => failed(facts),
        Happened::Begun(Sight::Failed(_)) => again(facts),
        Happened::Looked(Sight::Failed(ErrorClass::Transient | ErrorClass::Unknown))
            if facts.looks_left =>
        {
            T::Look
        }
        Happened::Looked(Sight::Failed(_)) => {
            if acts {
                T::Quarantine
            } else {
                failed(facts)
            }
        }
        Happened::Refused(Why::Lost) => T::Leave,
        Happened::Refused(Why::Draining) => T::HandOver,
        Happened::Refused(Why::Late) if facts.time_left => T::Anew,
        Happened::Refused(Why::Late) => failed(facts),
        Happened::Refused(Why::Stopped) => {
            if facts.touched {
                T::Skip
            } else {
                T::Back
            }
        }
        Happened::Refused(Why::Changed | Why::Refused) => {
            if facts.touched {
                T::Quarantine
            } else {
                T::Fail
            }
        }
    }
}

fn again(facts: JobFacts) -> Then {
    if facts.tries_left && facts.time_left { Then::Again } else { failed(facts) }
}

/// A look that fails must not keep a stopped batch from bringing its host to a safe end.
fn failed(facts: JobFacts) -> Then {
    match (facts.stop, facts.effect) {
        (Stop::Cancelled, StepEffect::Reads) => Then::Skip,
        _ => Then::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: JobFacts = JobFacts {
        effect: StepEffect::Once,
        finishing: false,
        touched: true,
        inherited: true,
        tries_left: true,
        time_left: true,
        looks_left: true,
        stop: Stop::No,
    };

    /// Each combination of facts that can be met.
    fn all_facts() -> impl Iterator<Item = JobFacts> {
        (0..2u32.pow(6) * 9).map(|n| {
            let bit = |at: u32| n >> at & 1 == 1;
            JobFacts {
                finishing: bit(0),
                touched: bit(1),
                tries_left: bit(2),
                time_left: bit(3),
                looks_left: bit(4),
                inherited: bit(5),
                effect: [StepEffect::Reads, StepEffect::Repeatable, StepEffect::Once]
                    [(n >> 6) as usize % 3],
                stop: [Stop::No, Stop::Paused, Stop::Cancelled][(n >> 6) as usize / 3],
            }
        })
    }

    const SIGHTS: [Sight; 9] = [
        Sight::Done,
        Sight::NotDone,
        Sight::Waits,
        Sight::Undecidable,
        Sight::GivenUp,
        Sight::Failed(ErrorClass::Transient),
        Sight::Failed(ErrorClass::Rejected),
        Sight::Failed(ErrorClass::Unknown),
        Sight::Failed(ErrorClass::Own),
    ];

    #[test]
    fn what_follows_an_act_whose_outcome_nobody_saw() {
        let mut table = String::new();
        for effect in [StepEffect::Reads, StepEffect::Repeatable, StepEffect::Once] {
            for sight in SIGHTS {
                let facts = JobFacts { effect, looks_left: false, ..FACTS };
                table += &format!(
                    "{effect:?} {sight:?} -> {:?}\n",
                    next(facts, Happened::Looked(sight))
                );
            }
        }
        insta::assert_snapshot!(table, @r"
        Reads Done -> Advance
        Reads NotDone -> Anew
        Reads Waits -> Wait
        Reads Undecidable -> Anew
        Reads GivenUp -> Again
        Reads Failed(Transient) -> Fail
        Reads Failed(Rejected) -> Fail
        Reads Failed(Unknown) -> Fail
        Reads Failed(Own) -> Wait
        Repeatable Done -> Advance
        Repeatable NotDone -> Anew
        Repeatable Waits -> Wait
        Repeatable Undecidable -> Anew
        Repeatable GivenUp -> Again
        Repeatable Failed(Transient) -> Quarantine
        Repeatable Failed(Rejected) -> Quarantine
        Repeatable Failed(Unknown) -> Quarantine
        Repeatable Failed(Own) -> Wait
        Once Done -> Advance
        Once NotDone -> Anew
        Once Waits -> Wait
        Once Undecidable -> Quarantine
        Once GivenUp -> Again
        Once Failed(Transient) -> Quarantine
        Once Failed(Rejected) -> Quarantine
        Once Failed(Unknown) -> Quarantine
        Once Failed(Own) -> Wait
        ");
    }

    #[test]
    fn a_refusal_is_never_followed_by_another_try_at_once() {
        let mut table = String::new();
        for why in [Why::Stopped, Why::Lost, Why::Draining, Why::Changed, Why::Refused, Why::Late] {
            let then = |touched| next(JobFacts { touched, ..FACTS }, Happened::Refused(why));
            table += &format!("{why:?} -> {:?}, touched {:?}\n", then(false), then(true));
        }
        // To try anew is to wait first.
        insta::assert_snapshot!(table, @r"
        Stopped -> Back, touched Skip
        Lost -> Leave, touched Leave
        Draining -> HandOver, touched HandOver
        Changed -> Fail, touched Quarantine
        Refused -> Fail, touched Quarantine
        Late -> Anew, touched Anew
        ");
        let late = JobFacts { time_left: false, ..FACTS };
        assert_eq!(next(late, Happened::Refused(Why::Late)), Then::Fail);
    }

    #[test]
    fn what_was_touched_is_never_given_back() {
        let happened = [Why::Stopped, Why::Draining, Why::Changed, Why::Refused, Why::Late]
            .map(Happened::Refused)
            .into_iter()
            .chain([Happened::Turned])
            .chain(SIGHTS.map(Happened::Begun))
            .chain(SIGHTS.map(Happened::Looked));
        for happened in happened {
            for facts in all_facts().filter(|facts| facts.touched) {
                assert_ne!(next(facts, happened), Then::Back, "{facts:?} {happened:?}");
            }
        }
    }

    #[test]
    fn an_act_that_cannot_be_repeated_is_not_repeated_where_it_may_have_happened() {
        for facts in all_facts().filter(|facts| facts.effect == StepEffect::Once) {
            for sight in [Sight::Undecidable, Sight::Failed(ErrorClass::Unknown)] {
                for happened in [Happened::Begun(sight), Happened::Looked(sight)] {
                    let decision = next(facts, happened);
                    assert!(
                        matches!(decision, Then::Look | Then::Quarantine),
                        "{facts:?} {happened:?} {decision:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_cancelled_batch_begins_only_what_ends_safely() {
        for facts in all_facts().filter(|facts| facts.stop == Stop::Cancelled) {
            let begins = next(facts, Happened::Turned) == Then::Begin;
            let safe = facts.touched && (facts.finishing || facts.effect == StepEffect::Reads);
            assert_eq!(begins, safe, "{facts:?}");
        }
    }

    #[test]
    fn who_may_act() {
        let mut table = String::new();
        for batch in [BatchState::Running, BatchState::Paused, BatchState::Cancelled] {
            for (touched, finishing) in [(false, false), (false, true), (true, false), (true, true)]
            {
                let kind = may_act(batch, touched, finishing);
                table += &format!("{batch} touched={touched} finishing={finishing} -> {kind:?}\n");
            }
        }
        insta::assert_snapshot!(table, @r"
        running touched=false finishing=false -> Some(First)
        running touched=false finishing=true -> Some(First)
        running touched=true finishing=false -> Some(Further)
        running touched=true finishing=true -> Some(Finishing)
        paused touched=false finishing=false -> None
        paused touched=false finishing=true -> None
        paused touched=true finishing=false -> Some(Further)
        paused touched=true finishing=true -> Some(Finishing)
        cancelled touched=false finishing=false -> None
        cancelled touched=false finishing=true -> None
        cancelled touched=true finishing=false -> None
        cancelled touched=true finishing=true -> Some(Finishing)
        ");
    }
}
