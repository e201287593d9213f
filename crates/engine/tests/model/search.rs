//! Every state that can be reached, breadth first, so that what is found is found on a shortest way.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{self, Debug, Display};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;

/// A system that can do one of several things next.
pub(crate) trait Model {
    type State: Clone + Eq + Hash + Debug;

    fn initial(&self) -> Self::State;
    /// What may happen next, and to which state it leads.
    fn next(&self, state: &Self::State, to: &mut Vec<(Step, Self::State)>);
    /// The promise that the state breaks, if it breaks one.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
}

/// Something that happens, in one piece.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Step {
    pub(crate) who: &'static str,
    pub(crate) what: &'static str,
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.who, self.what)
    }
}

/// What a search has found.
pub(crate) struct Found {
    pub(crate) states: usize,
    /// All that happened in some state.
    pub(crate) happened: BTreeSet<&'static str>,
    pub(crate) counterexample: Option<Counterexample>,
}

/// A way to a state that breaks a promise.
pub(crate) struct Counterexample {
    pub(crate) broken: &'static str,
    pub(crate) steps: Vec<Step>,
    pub(crate) state: String,
}

impl Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after {} steps:", self.broken, self.steps.len())?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        write!(f, "{}", self.state)
    }
}

/// Visits all states, or those up to the first that breaks a promise.
pub(crate) fn search<M: Model>(model: &M) -> Found {
    let initial = Rc::new(model.initial());
    let mut seen = HashSet::<_, BuildHasherDefault<Quick>>::default();
    seen.insert(Rc::clone(&initial));
    let mut nodes = vec![(initial, None)];
    let (mut happened, mut next) = (BTreeSet::new(), Vec::new());
    let mut at = 0;
    while at < nodes.len() {
        let state = Rc::clone(&nodes[at].0);
        if let Some(broken) = model.broken(&state) {
            let mut steps = Vec::new();
            let mut back = at;
            while let Some((before, step)) = nodes[back].1 {
                steps.push(step);
                back = before;
            }
            steps.reverse();
            let counterexample = Some(Counterexample { broken, steps, state: format!("{state:?}") });
            return Found { states: nodes.len(), happened, counterexample };
        }
        model.next(&state, &mut next);
        for (step, state) in next.drain(..) {
            happened.insert(step.what);
            if !seen.contains(&state) {
                let state = Rc::new(state);
                seen.insert(Rc::clone(&state));
                nodes.push((state, Some((at, step))));
            }
        }
        at += 1;
    }
    Found { states: nodes.len(), happened, counterexample: None }
}

/// A state is many small numbers: the standard hasher would take most of the time.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_i8(&mut self, number: i8) {
        self.write_u64(u64::from(number.cast_unsigned()));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
