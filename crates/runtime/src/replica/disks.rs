//! Submission of disk requests in an order that respects writes still held by the Output Rule.
//!
//! The pool keeps overlapping requests in their order once it has them. But a write waits in the gate first, and a read or
//! flush does not: a read of blocks that a held write covers waits here until that write is released.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ft_core::output::DiskRequest;
use ft_devices::backend::pool::DiskPool;

/// The disks of a replica.
pub(super) struct Disks {
    pool: DiskPool,
    order: Mutex<Order>,
}

#[derive(Default)]
struct Order {
    /// Writes in the gate: disk, request, sectors.
    held: Vec<(u16, u64, Range<u64>)>,
    deferred: VecDeque<DiskRequest>,
    closed: bool,
}

impl Order {
    fn must_wait(&self, request: &DiskRequest) -> bool {
        let range = request.op.sectors();
        self.held.iter().any(|(disk, number, held)| {
            *disk == request.disk
                && *number < request.request
                && held.start < range.end
                && range.start < held.end
        })
    }
}

impl Disks {
    pub(super) fn new(pool: DiskPool) -> Self {
        Self { pool, order: Mutex::default() }
    }

    /// A write goes into the gate.
    pub(super) fn hold(&self, request: &DiskRequest) {
        let held = (request.disk, request.request, request.op.sectors());
        self.order.lock().unwrap_or_else(PoisonError::into_inner).held.push(held);
    }

    /// Carries out a request that need not be held.
    pub(super) fn submit(&self, request: DiskRequest) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.must_wait(&request) {
            order.deferred.push_back(request);
        } else {
            self.start(&order, request);
        }
    }

    /// Carries out a write that has come out of the gate, and what waited for it.
    pub(super) fn release(&self, request: DiskRequest) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.held.retain(|(disk, number, _)| (*disk, *number) != (request.disk, request.request));
        self.start(&order, request);
        for deferred in std::mem::take(&mut order.deferred) {
            if order.must_wait(&deferred) {
                order.deferred.push_back(deferred);
            } else {
                self.start(&order, deferred);
            }
        }
    }

    fn start(&self, order: &Order, request: DiskRequest) {
        // The board makes requests for its own disks only: an error would be a mistake of this program.
        if !order.closed
            && let Err(error) = self.pool.submit(request)
        {
            eprintln!("ft-vm: {error}");
        }
    }

    /// Waits for what runs and lets nothing more begin.
    pub(super) fn close(&self, finish: bool) {
        self.order.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        if finish {
            self.pool.wait_idle();
        } else {
            self.pool.abort();
        }
    }
}
