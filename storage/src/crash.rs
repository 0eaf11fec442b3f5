//! Named places where a test may end the process: both sides of each sync and rename.

/// Called with the name of each place as it is passed. Does nothing unless a test supplies a function.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrashPoints(Option<fn(&'static str)>);

impl CrashPoints {
    /// Calls `reached` at every place.
    #[must_use]
    pub fn new(reached: fn(&'static str)) -> Self {
        Self(Some(reached))
    }

    /// Passes a place.
    pub(crate) fn at(self, place: &'static str) {
        if let Some(reached) = self.0 {
            reached(place);
        }
    }
}
