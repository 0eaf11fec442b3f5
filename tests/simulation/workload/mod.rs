//! What the clients do: drawn step by step from the seed.

mod consumers;
mod deleting;
mod publishing;
mod streams;

use std::time::Duration;

use claudebus::model::api::ApiRequest;
use claudebus::model::request::Request;

use crate::clients::{Asked, SESSIONS, Simulation};
use crate::world::Halt;

pub use publishing::Name;
pub use streams::{new_stream, streams};

/// Last parts of subjects.
pub const LEAVES: [&str; 4] = ["a", "b", "a.x", "c"];

impl Simulation {
    /// One step of some client.
    pub fn step(&mut self) -> Result<(), Halt> {
        match self.world.chance.below(100) {
            0..30 => self.publish(),
            30..45 => self.pull(),
            45..68 => self.settle(),
            68..71 => self.resend_one(),
            71..73 => self.purge(),
            73..76 => self.delete(),
            76..79 => self.exhume()?,
            79 => self.change_consumer()?,
            80 => self.change_stream()?,
            81..83 => {
                let time = Duration::from_millis(self.world.chance.below(8_000));
                self.world.pass(time);
            }
            83 => self.world.set_wall(),
            84 => self.pause()?,
            85 => self.publish_later(),
            86..89 => self.publish_together()?,
            89 if self.world.chance.one_in(3) => self.cancel_schedule()?,
            _ => self.turn()?,
        }
        if self.world.chance.one_in(2) { self.turn() } else { Ok(()) }
    }

    fn draw_stream(&mut self) -> usize {
        // Work queues and interest have most to lose.
        *self.world.chance.pick(&[0, 1, 2, 3, 4, 4, 4, 5, 5])
    }

    fn ask_about(&mut self, asked: Asked, request: ApiRequest) {
        let token = self.ask_later(asked);
        self.world.trace.say(format_args!("{} asks {request:?}", token.0));
        self.world.handle(SESSIONS[2], Request::Api { token, request });
    }
}
