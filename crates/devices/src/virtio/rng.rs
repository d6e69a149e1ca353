//! virtio-entropy (virtio 1.2, section 5.4). The bytes come from outside: a request is an output, its answer an input.

use std::collections::VecDeque;

use ft_core::output::{MAX_ENTROPY, OutputBody};
use ft_vcpu::GuestRam;
use serde::{Deserialize, Serialize};

use super::blk::Mismatch;
use super::chain::Buffer;
use super::{Broken, Context, Device};

const QUEUE: usize = 0;
const QUEUE_SIZES: &[u16] = &[16];
/// Requests in flight; more stay in the guest's ring.
const MAX_REQUESTS: usize = 16;

/// A request for entropy in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    request: u64,
    len: u32,
    /// Head and buffer of the chain; `None` if the guest reset the device meanwhile.
    reply: Option<(u16, Buffer)>,
}

/// A source of entropy. The whole of it is state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng {
    next_request: u64,
    pending: VecDeque<Pending>,
}

impl Rng {
    /// Number and length of the requests in flight, in the order of submission.
    pub fn pending(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.pending.iter().map(|pending| (pending.request, pending.len))
    }

    /// True if `self` can be the state of a device on this RAM.
    pub fn is_sane(&self, ram: &GuestRam) -> bool {
        self.pending.len() <= MAX_REQUESTS
            && self.pending.iter().all(|pending| {
                pending.len <= MAX_ENTROPY
                    && pending
                        .reply
                        .iter()
                        .flat_map(|(_, buffer)| &buffer.0)
                        .all(|piece| super::chain::in_ram(ram, piece.address, u64::from(piece.len)))
            })
    }

    /// Takes a request out of those in flight.
    ///
    /// # Errors
    /// There is none such, or it asked for another number of bytes. Nothing has changed then.
    pub fn take(&mut self, request: u64, len: usize) -> Result<Pending, Mismatch> {
        let index = self.pending.iter().position(|pending| pending.request == request);
        let index = index.ok_or(Mismatch::Unknown)?;
        let wanted = self.pending[index].len as usize;
        if len != wanted {
            return Err(Mismatch::Length { got: len, wanted });
        }
        self.pending.remove(index).ok_or(Mismatch::Unknown)
    }

    /// Gives the bytes to the guest, then takes up requests that were held back.
    ///
    /// # Errors
    /// The ring makes no sense.
    pub fn complete(
        &mut self,
        pending: Pending,
        bytes: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Broken> {
        if let Some((head, buffer)) = pending.reply {
            let written = buffer.write(context.ram, 0, bytes)?;
            context.add_used(QUEUE, head, written)?;
        }
        self.process(QUEUE, context)
    }
}

impl Device for Rng {
    fn id(&self) -> u32 {
        super::DEVICE_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn process(&mut self, _queue: usize, context: &mut Context<'_>) -> Result<(), Broken> {
        for _ in 0..QUEUE_SIZES[QUEUE] {
            if self.pending.len() >= MAX_REQUESTS {
                return Ok(());
            }
            let Some(chain) = context.pop(QUEUE)? else { return Ok(()) };
            let len = chain.writable.len().min(u64::from(MAX_ENTROPY)) as u32;
            if len == 0 {
                context.add_used(QUEUE, chain.head, 0)?;
                continue;
            }
            let request = self.next_request;
            self.next_request += 1;
            context.outputs.push(OutputBody::Entropy { request, len });
            self.pending.push_back(Pending { request, len, reply: Some((chain.head, chain.writable)) });
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.pending.iter_mut().for_each(|pending| pending.reply = None);
    }
}
