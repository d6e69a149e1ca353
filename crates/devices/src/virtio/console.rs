//! virtio-console (virtio 1.2, section 5.3): one port, no multiport.

use std::collections::VecDeque;

use ft_core::output::OutputBody;
use serde::{Deserialize, Serialize};

use super::{Broken, Context, Device};

const RX: usize = 0;
const TX: usize = 1;
const QUEUE_SIZES: &[u16] = &[64, 64];
/// Most bytes in one chain that the guest sends.
const MAX_CHAIN: u64 = 256 << 10;
/// Bytes typed that wait for a buffer; more are dropped.
pub const BACKLOG: usize = 64 << 10;

/// A console. The whole of it is state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    backlog: VecDeque<u8>,
}

impl Console {
    /// True if `self` can be the state of a console.
    pub fn is_sane(&self) -> bool {
        self.backlog.len() <= BACKLOG
    }

    /// Bytes typed. Beyond [`BACKLOG`] they are dropped.
    ///
    /// # Errors
    /// The ring makes no sense.
    pub fn receive(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<(), Broken> {
        let room = BACKLOG - self.backlog.len();
        self.backlog.extend(&bytes[..bytes.len().min(room)]);
        self.fill(context)
    }

    fn fill(&mut self, context: &mut Context<'_>) -> Result<(), Broken> {
        for _ in 0..QUEUE_SIZES[RX] {
            if self.backlog.is_empty() {
                return Ok(());
            }
            let Some(chain) = context.pop(RX)? else { return Ok(()) };
            let count = chain.writable.len().min(self.backlog.len() as u64) as usize;
            let bytes: Vec<u8> = self.backlog.drain(..count).collect();
            let written = chain.writable.write(context.ram, 0, &bytes)?;
            context.add_used(RX, chain.head, written)?;
        }
        Ok(())
    }

    fn transmit(&mut self, context: &mut Context<'_>) -> Result<(), Broken> {
        for _ in 0..QUEUE_SIZES[TX] {
            let Some(chain) = context.pop(TX)? else { return Ok(()) };
            let len = chain.readable.len();
            if len > MAX_CHAIN {
                return Err(Broken::TooLarge);
            }
            let bytes = chain.readable.read(context.ram, 0, len)?;
            // The board knows the stream's offset and cuts the bytes as it does those of the serial line.
            context.outputs.push(OutputBody::Console { offset: 0, bytes });
            context.add_used(TX, chain.head, 0)?;
        }
        Ok(())
    }
}

impl Device for Console {
    fn id(&self) -> u32 {
        super::DEVICE_CONSOLE
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

    fn process(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Broken> {
        if queue == TX { self.transmit(context) } else { self.fill(context) }
    }

    fn reset(&mut self) {
        self.backlog.clear();
    }
}
