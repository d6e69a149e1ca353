//! The network card as smoltcp sees it.
//!
//! Frames are handed over one at a time, by the loop that has already looked whose they are.

use rt::virtio::{FRAME_MAX, Frame, Net};
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// The card, and the frame to be taken in next.
pub(crate) struct Phy {
    pub(crate) net: Net,
    incoming: Option<Frame>,
    /// A frame that has been taken in, its buffer to be given back.
    done: Option<Frame>,
}

impl Phy {
    pub(crate) fn new(net: Net) -> Self {
        Self { net, incoming: None, done: None }
    }

    /// Makes `frame` the one that smoltcp receives in `take`.
    pub(crate) fn deliver<R>(&mut self, frame: Frame, take: impl FnOnce(&mut Self) -> R) -> R {
        self.incoming = Some(frame);
        let result = take(self);
        // Not taken when no frame could have been sent in answer: then it is dropped, as a full network would.
        if let Some(frame) = self.done.take().or_else(|| self.incoming.take()) {
            self.net.recycle(frame);
        }
        result
    }
}

/// A frame that has arrived.
pub(crate) struct RxToken<'a> {
    frame: Frame,
    done: &'a mut Option<Frame>,
}

impl smoltcp::phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        let result = take(self.frame.bytes());
        *self.done = Some(self.frame);
        result
    }
}

/// Leave to send a frame.
pub(crate) struct TxToken<'a>(&'a mut Net);

impl smoltcp::phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.send(length, fill)
    }
}

impl Device for Phy {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        if !self.net.can_send() {
            return None;
        }
        let frame = self.incoming.take()?;
        Some((RxToken { frame, done: &mut self.done }, TxToken(&mut self.net)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        self.net.can_send().then_some(TxToken(&mut self.net))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities
    }
}
