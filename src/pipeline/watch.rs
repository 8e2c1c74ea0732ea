//! Who waits for the pictures of a batch, hears of them, and ends them.

use super::Event;
use super::denoise::{Audience, Place, Progress, Shape, Tally};
use super::preview::Previewer;
use super::together::Member;
use crate::kernel::finite;
use crate::{Error, Result};

/// What is said where previews cannot be made.
pub(super) const NO_PREVIEW: &str =
    "no previews: the VAE that they are made with gives numbers that are not finite";

/// The members whose pictures go through a loop at the moment.
pub(super) struct Watch<'w, 'm, 'o, 'p> {
    members: &'w mut [Member<'m, 'o>],
    /// Whose pictures they are.
    places: &'w [Place],
    /// Of each of `places`, whether nobody waits for its further steps.
    over: Vec<bool>,
    /// Steps done.
    done: usize,
    previewer: &'w Option<Previewer<'p>>,
    shape: Shape,
}

impl<'w, 'm, 'o, 'p> Watch<'w, 'm, 'o, 'p> {
    pub fn new(
        members: &'w mut [Member<'m, 'o>],
        places: &'w [Place],
        previewer: &'w Option<Previewer<'p>>,
        shape: Shape,
    ) -> Self {
        Self {
            members,
            places,
            over: vec![false; places.len()],
            done: 0,
            previewer,
            shape,
        }
    }

    /// Members that wait for further steps, each with how many pictures.
    fn waiting(&self) -> Vec<(usize, usize)> {
        let mut waiting: Vec<(usize, usize)> = Vec::new();
        let going = self
            .places
            .iter()
            .zip(&self.over)
            .filter(|(_, over)| !**over);
        for (place, _) in going {
            match waiting.iter_mut().find(|(i, _)| *i == place.request) {
                Some((_, pictures)) => *pictures += 1,
                None => waiting.push((place.request, 1)),
            }
        }
        waiting
    }

    /// Those hear that steps begin who have not heard that.
    pub fn begin(&mut self) {
        for (i, _) in self.waiting() {
            let member = &mut self.members[i];
            let has_begun = std::mem::replace(&mut member.now.has_begun, true);
            if !has_begun && !member.is_cancelled() {
                let (index, total) = (member.now.done, member.now.total);
                member.tell(Event::Step { index, total });
            }
        }
    }

    /// Counts what was done. Whoever was asked to finish begins no other pictures.
    pub fn end(&mut self, tally: &Tally) {
        for (i, pictures) in self.waiting() {
            self.members[i].now.done += self.done * pictures;
        }
        let all = self.places.len();
        self.over = vec![false; all];
        for (i, pictures) in self.waiting() {
            let member = &mut self.members[i];
            member.now.tally.add(tally, pictures, all);
            member.now.has_quit |= member.observer.cancel.is_finishing();
        }
    }

    /// Sends previews to those who want some after the step at hand.
    async fn preview(&mut self, at: &mut Progress<'_, '_>) -> Result<()> {
        let Some(previewer) = self.previewer else {
            return Ok(());
        };
        let wants = |member: &Member<'_, '_>| {
            member.wants_previews()
                && !member.is_cancelled()
                && at.done.is_multiple_of(member.observer.preview_every)
        };
        let mut waiting = self.waiting();
        waiting.retain(|(i, _)| wants(&self.members[*i]));
        if waiting.is_empty() {
            return Ok(());
        }
        let expected = at.expected().await?;
        let pictures = expected.chunks(self.shape.count()).zip(self.places);
        for (latents, place) in pictures {
            let wanted = waiting.iter().any(|(i, _)| *i == place.request);
            let member = &mut self.members[place.request];
            // The loop says at its end that these are not finite.
            if !wanted || !member.wants_previews() || !finite::twin(latents) {
                continue;
            }
            let Shape { h, w, .. } = self.shape;
            let cancel = member.observer.cancel;
            match previewer.picture_async(latents, h, w, cancel).await {
                // It goes at the next step.
                Err(Error::Cancelled) => {}
                // The run may be sound all the same.
                Err(e) if e.is_not_finite() => {
                    member.now.warnings.push(NO_PREVIEW.into());
                    member.now.no_previews = true;
                }
                made => member.tell(Event::Preview {
                    index: place.index,
                    picture: made?,
                }),
            }
        }
        Ok(())
    }
}

impl Audience for Watch<'_, '_, '_, '_> {
    fn is_gone(&self) -> bool {
        let mut going = self.places.iter().zip(&self.over);
        going.all(|(place, over)| *over || self.members[place.request].is_cancelled())
    }

    async fn step(&mut self, at: &mut Progress<'_, '_>) -> Result<()> {
        self.done = at.done;
        for (i, pictures) in self.waiting() {
            let member = &mut self.members[i];
            if !member.is_cancelled() {
                let index = member.now.done + at.done * pictures;
                let total = member.now.total;
                member.tell(Event::Step { index, total });
            }
        }
        self.preview(at).await
    }

    fn ending(&mut self) -> Vec<usize> {
        let mut ending = Vec::new();
        for (i, pictures) in self.waiting() {
            let member = &mut self.members[i];
            let cancelled = member.is_cancelled();
            if !cancelled && !member.observer.cancel.ends_pictures() {
                continue;
            }
            member.now.done += self.done * pictures;
            for (at, place) in self.places.iter().enumerate() {
                if place.request == i && !std::mem::replace(&mut self.over[at], true) && !cancelled
                {
                    ending.push(at);
                }
            }
        }
        ending
    }

    fn is_over(&self) -> bool {
        self.over.iter().all(|over| *over)
    }
}
