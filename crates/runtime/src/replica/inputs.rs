//! The one queue through which inputs reach the vCPU's thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use ft_core::Body;
use ft_core::input::Input;

/// Cost of inputs beyond which producers that can wait, wait.
const FULL: u64 = 8 << 20;

/// Inputs in order of arrival.
#[derive(Default)]
pub(super) struct Inputs {
    queue: Mutex<Queue>,
    room: Condvar,
    len: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    inputs: VecDeque<Input>,
    cost: u64,
}

impl Inputs {
    /// Adds an input whose number is bounded by the machine itself (completions of its own requests).
    pub(super) fn push(&self, input: Input) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.cost += cost(&input);
        queue.inputs.push_back(input);
        self.len.store(queue.inputs.len(), Ordering::Release);
    }

    /// Adds an input from outside; waits while the queue is full.
    pub(super) fn push_bounded(&self, input: Input) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.cost > FULL {
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.cost += cost(&input);
        queue.inputs.push_back(input);
        self.len.store(queue.inputs.len(), Ordering::Release);
    }

    /// Takes the first input if `admit` says so.
    pub(super) fn pop_if(&self, admit: impl FnOnce(&Input) -> bool) -> Option<Input> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !admit(queue.inputs.front()?) {
            return None;
        }
        let input = queue.inputs.pop_front()?;
        queue.cost -= cost(&input);
        self.len.store(queue.inputs.len(), Ordering::Release);
        drop(queue);
        self.room.notify_all();
        Some(input)
    }

    /// How many inputs wait; without a lock.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// True if an input waits; without a lock.
    pub(super) fn any(&self) -> bool {
        self.len.load(Ordering::Acquire) > 0
    }
}

/// What its record will cost.
pub(super) fn cost(input: &Input) -> u64 {
    const OVERHEAD: u64 = ft_core::record::RECORD_OVERHEAD;
    match input {
        Input::DiskDone(done) => OVERHEAD + done.data.len() as u64,
        Input::NetRx(batch) => {
            OVERHEAD + batch.frames.iter().map(|frame| frame.len() as u64 + 8).sum::<u64>()
        }
        Input::Console(bytes) | Input::Entropy { bytes, .. } => OVERHEAD + bytes.len() as u64,
        Input::Anchor(_) | Input::PowerButton | Input::Date(_) => Body::Progress.cost(),
    }
}
