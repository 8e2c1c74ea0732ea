//! A job in shares: ranges of its pictures, each drawn by one device, and what they come
//! to together.

use super::drawn::{Drawn, Made};
use super::failure::Failure;
use crate::pipeline::Cancel;
use serde_json::Value;
use std::ops::Range;

/// How often a share is begun at the most: a device may be lost while it draws.
const ATTEMPTS: usize = 3;

/// A range of a job's pictures that a device draws.
pub struct Taken {
    /// From 0.
    pub samples: Range<usize>,
    /// Ends it.
    pub cancel: Cancel,
}

/// What a share came to.
#[derive(Debug)]
pub struct Part {
    pub pictures: Vec<Made>,
    /// Pictures were ended early at the owner's wish.
    pub interrupted: bool,
    /// The whole request as it was carried out.
    pub settings: Value,
    pub warnings: Vec<String>,
}

/// What became of a share.
#[derive(Debug)]
pub enum Outcome {
    Drawn(Part),
    Failed(Failure),
    /// The device was lost: it is drawn again, there or elsewhere, unless that happened
    /// too often.
    Lost(Failure),
}

/// What the end of a share means.
pub enum Ended {
    /// Others of the job are drawn or wait.
    GoesOn,
    /// It waits once more.
    Again,
    /// It was the last one.
    Job(Result<Drawn, Failure>),
}

/// All shares of a job.
pub(super) struct Shares {
    /// In the order of their pictures.
    pieces: Vec<Piece>,
    /// Why the job ends without pictures: the first reason.
    failure: Option<Failure>,
    /// Its owner wants what there is of the pictures.
    finishing: bool,
    /// Somebody was told to end the job; nobody else is.
    over: bool,
}

struct Piece {
    samples: Range<usize>,
    attempts: usize,
    /// UNet steps: done, and in all.
    steps: [usize; 2],
    stand: Stand,
}

enum Stand {
    Waits,
    Runs(Cancel),
    Drawn(Part),
    /// Nobody begins it any more.
    Dropped,
}

impl Shares {
    /// Of a job of `samples` pictures, of which none is begun.
    pub fn new(samples: usize) -> Self {
        Self {
            pieces: vec![Piece::waiting(0..samples, 0)],
            failure: None,
            finishing: false,
            over: false,
        }
    }

    /// How many pictures there are in all.
    pub fn samples(&self) -> usize {
        self.pieces.iter().map(|piece| piece.samples.len()).sum()
    }

    /// Whether pictures wait for a device.
    pub fn waits(&self) -> bool {
        self.pieces.iter().any(|p| matches!(p.stand, Stand::Waits))
    }

    /// Whether a device draws.
    pub fn runs(&self) -> bool {
        let mut running = self.running();
        running.next().is_some()
    }

    fn running(&self) -> impl Iterator<Item = &Cancel> {
        self.pieces.iter().filter_map(|piece| match &piece.stand {
            Stand::Runs(cancel) => Some(cancel),
            _ => None,
        })
    }

    /// Takes one of `ways` equal parts of the first pictures that wait.
    pub fn take(&mut self, ways: usize) -> Option<Taken> {
        let waits = |piece: &Piece| matches!(piece.stand, Stand::Waits);
        let at = self.pieces.iter().position(waits)?;
        let cancel = Cancel::default();
        if self.finishing {
            cancel.finish();
        }
        let piece = &mut self.pieces[at];
        let count = piece.samples.len().div_ceil(ways.max(1));
        let (middle, end) = (piece.samples.start + count, piece.samples.end);
        piece.samples.end = middle;
        piece.attempts += 1;
        piece.stand = Stand::Runs(cancel.clone());
        let (samples, attempts) = (piece.samples.clone(), piece.attempts);
        if middle < end {
            self.pieces
                .insert(at + 1, Piece::waiting(middle..end, attempts - 1));
        }
        Some(Taken { samples, cancel })
    }

    /// Ends a share.
    pub fn end(&mut self, share: &Taken, outcome: Outcome) -> Ended {
        let same = |piece: &&mut Piece| piece.samples == share.samples;
        let Some(piece) = self.pieces.iter_mut().find(same) else {
            return Ended::GoesOn;
        };
        piece.stand = Stand::Dropped;
        match outcome {
            Outcome::Drawn(part) => piece.stand = Stand::Drawn(part),
            Outcome::Lost(_) if self.failure.is_none() && piece.attempts < ATTEMPTS => {
                piece.stand = Stand::Waits;
                piece.steps = [0, piece.steps[1]];
                return Ended::Again;
            }
            Outcome::Failed(failure) | Outcome::Lost(failure) => self.give_up(failure),
        }
        if self.waits() || self.runs() || self.over {
            return Ended::GoesOn;
        }
        self.over = true;
        Ended::Job(match self.failure.clone() {
            Some(failure) => Err(failure),
            None => Ok(self.joined()),
        })
    }

    /// Ends the job without pictures, once what runs has ended; the first reason counts.
    /// Whether nothing runs: then it is over with this call, and the caller tells.
    pub fn fail(&mut self, why: Failure) -> bool {
        self.give_up(why);
        let over = !self.runs() && !self.over;
        self.over |= over;
        over
    }

    fn give_up(&mut self, why: Failure) {
        self.failure.get_or_insert(why);
        self.running().for_each(Cancel::cancel);
        self.drop_waiting();
    }

    /// Ends the job with what there is of its pictures. Those that have not begun are left
    /// out, unless none has.
    pub fn finish(&mut self) {
        self.finishing = true;
        self.running().for_each(Cancel::finish);
        if self.runs() {
            self.drop_waiting();
        }
    }

    /// Ends the pictures that are drawn at the moment, as [`Shares::finish`], and goes on
    /// with the others.
    pub fn skip(&self) {
        self.running().for_each(Cancel::skip);
    }

    /// Whether the job was asked to end.
    pub fn is_ending(&self) -> bool {
        self.finishing || self.failure.is_some()
    }

    fn drop_waiting(&mut self) {
        for piece in &mut self.pieces {
            if matches!(piece.stand, Stand::Waits) {
                piece.stand = Stand::Dropped;
            }
        }
    }

    /// Notes how far a share is, in UNet steps; those of the whole job, done and in all.
    pub fn steps(&mut self, share: &Taken, steps: [usize; 2]) -> [usize; 2] {
        let mut pieces = self.pieces.iter_mut();
        if let Some(piece) = pieces.find(|piece| piece.samples == share.samples) {
            piece.steps = steps;
        }
        // Every picture takes as many.
        let each = steps[1] / share.samples.len().max(1);
        let done = self.pieces.iter().map(|piece| piece.steps[0]);
        [done.sum(), each * self.samples()]
    }

    /// What the pictures that were drawn come to.
    fn joined(&mut self) -> Drawn {
        let mut drawn = Drawn::default();
        for piece in &mut self.pieces {
            let stand = std::mem::replace(&mut piece.stand, Stand::Dropped);
            let Stand::Drawn(part) = stand else {
                drawn.interrupted = true;
                continue;
            };
            drawn.pictures.extend(part.pictures);
            drawn.interrupted |= part.interrupted;
            drawn.settings = part.settings;
            for warning in part.warnings {
                if !drawn.warnings.contains(&warning) {
                    drawn.warnings.push(warning);
                }
            }
        }
        drawn
    }
}

impl Piece {
    fn waiting(samples: Range<usize>, attempts: usize) -> Self {
        Self {
            samples,
            attempts,
            steps: [0, 0],
            stand: Stand::Waits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(share: &Taken) -> Outcome {
        let made = |seed| Made {
            seed: seed as u64,
            ..Made::default()
        };
        Outcome::Drawn(Part {
            pictures: share.samples.clone().map(made).collect(),
            interrupted: false,
            settings: Value::Null,
            warnings: vec!["said".into()],
        })
    }

    fn seeds(drawn: &Drawn) -> Vec<u64> {
        drawn.pictures.iter().map(|made| made.seed).collect()
    }

    fn drawn(ended: Ended) -> Drawn {
        match ended {
            Ended::Job(Ok(drawn)) => drawn,
            _ => panic!("the job should be drawn"),
        }
    }

    fn failure(ended: Ended) -> Failure {
        match ended {
            Ended::Job(Err(failure)) => failure,
            _ => panic!("the job should have failed"),
        }
    }

    fn goes_on(ended: &Ended) -> bool {
        matches!(ended, Ended::GoesOn)
    }

    #[test]
    fn shares_are_joined_in_the_order_of_their_pictures() {
        let mut job = Shares::new(5);
        let a = job.take(2).unwrap();
        let b = job.take(2).unwrap();
        let c = job.take(2).unwrap();
        assert!(job.take(2).is_none());
        assert_eq!([&a, &b, &c].map(|s| s.samples.clone()), [0..3, 3..4, 4..5]);
        assert_eq!(job.steps(&b, [2, 10]), [2, 50]);
        assert_eq!(job.steps(&a, [15, 30]), [17, 50]);
        assert!(goes_on(&job.end(&c, part(&c))));
        assert!(goes_on(&job.end(&a, part(&a))));
        let drawn = drawn(job.end(&b, part(&b)));
        assert_eq!(seeds(&drawn), [0, 1, 2, 3, 4]);
        assert_eq!((drawn.interrupted, drawn.warnings.len()), (false, 1));
        // Nobody else is told, whatever comes.
        assert!(goes_on(&job.end(&b, part(&b))));
        assert!(!job.fail(Failure::Cancelled));
    }

    #[test]
    fn what_a_lost_device_had_is_drawn_again_a_few_times() {
        let mut job = Shares::new(2);
        let lost = || Outcome::Lost(Failure::Internal);
        for _ in 1..ATTEMPTS {
            let share = job.take(1).unwrap();
            job.steps(&share, [3, 10]);
            assert!(matches!(job.end(&share, lost()), Ended::Again));
        }
        let share = job.take(1).unwrap();
        assert_eq!(share.samples, 0..2);
        assert_eq!(failure(job.end(&share, lost())), Failure::Internal);
        // Nor when its owner has left.
        let mut job = Shares::new(1);
        let share = job.take(1).unwrap();
        assert!(!job.fail(Failure::Cancelled));
        assert_eq!(failure(job.end(&share, lost())), Failure::Cancelled);
    }

    #[test]
    fn the_first_failure_ends_the_other_shares() {
        let mut job = Shares::new(3);
        let a = job.take(3).unwrap();
        let b = job.take(2).unwrap();
        let why = Failure::TimedOut(1);
        assert!(goes_on(&job.end(&a, Outcome::Failed(why.clone()))));
        assert!(b.cancel.is_cancelled() && job.take(1).is_none());
        assert_eq!(failure(job.end(&b, part(&b))), why);
    }

    /// Whoever stops a job ends it only where no device would.
    #[test]
    fn a_job_is_ended_once() {
        let mut waiting = Shares::new(1);
        assert!(waiting.fail(Failure::Cancelled));
        assert!(!waiting.fail(Failure::Cancelled));
        assert!(waiting.take(1).is_none());

        let mut lost = Shares::new(1);
        let share = lost.take(1).unwrap();
        let ended = lost.end(&share, Outcome::Lost(Failure::Internal));
        assert!(matches!(ended, Ended::Again));
        assert!(lost.fail(Failure::Cancelled));
        assert!(lost.take(1).is_none());
    }

    #[test]
    fn a_job_that_is_finished_early_leaves_out_what_has_not_begun() {
        let mut job = Shares::new(4);
        let a = job.take(2).unwrap();
        job.finish();
        assert!(a.cancel.is_finishing() && job.take(1).is_none());
        let drawn = drawn(job.end(&a, part(&a)));
        assert_eq!((seeds(&drawn), drawn.interrupted), (vec![0, 1], true));

        // Its device was lost: it must still have something to show.
        let mut job = Shares::new(1);
        let share = job.take(1).unwrap();
        job.finish();
        let ended = job.end(&share, Outcome::Lost(Failure::Internal));
        assert!(matches!(ended, Ended::Again));
        assert!(job.take(1).unwrap().cancel.is_finishing());
    }

    #[test]
    fn skipping_reaches_every_device() {
        let mut job = Shares::new(2);
        let shares = [job.take(2).unwrap(), job.take(1).unwrap()];
        job.skip();
        assert!(shares.iter().all(|share| share.cancel.is_skipping()));
    }
}
