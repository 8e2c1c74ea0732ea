//! From an order to a job: measured, priced, reserved, decoded, and let into the queue.

use super::caller::{Caller, Owner};
use super::failure::Failure;
use super::job::Job;
use super::model::Model;
use super::order::{Checked, Measured, Order, Prepared, Rules};
use super::service::{Service, blocking};
use super::ticket::Ticket;
use crate::pipeline::{Cancel, Context};
use crate::server::config::price::Inputs;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// How a request came.
pub(super) struct Arrival {
    pub owner: Owner,
    pub route: &'static str,
    pub request_id: String,
    /// Its results go to the store.
    kept: bool,
    since: Instant,
}

/// The model that an order is for.
struct Picked {
    /// Its place among the service's models.
    index: usize,
    model: Model,
}

/// How long is waited for a request to be prepared.
struct Patience {
    /// Ends when the client goes away.
    gone: oneshot::Receiver<()>,
    end: tokio::time::Instant,
    /// Of the whole, for who is told.
    seconds: u64,
}

impl Patience {
    async fn over<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            _ = &mut self.gone => Err(Failure::Cancelled),
            () = tokio::time::sleep_until(self.end) => Err(Failure::TimedOut(self.seconds)),
        }
    }
}

impl Service {
    /// Lets a job in: it will be drawn, unless the ticket is dropped before.
    pub async fn submit(
        &self,
        caller: &Caller,
        order: Order,
        route: &'static str,
        request_id: &str,
        kept: bool,
    ) -> Result<Ticket, Failure> {
        let since = Instant::now();
        let service = self.clone();
        let arrival = Arrival {
            owner: caller.owner(),
            route,
            request_id: request_id.to_owned(),
            kept,
            since,
        };
        // Dropped with this future, when the client goes away.
        let (_here, gone) = oneshot::channel::<()>();
        // A task of its own: what was reserved must still find its job, which the ticket
        // ends.
        let admitted = tokio::spawn(async move { service.let_in(order, arrival, gone).await });
        admitted.await.map_err(Failure::internal)?
    }

    /// [`Service::submit`], until the client is `gone`.
    async fn let_in(
        &self,
        order: Order,
        arrival: Arrival,
        gone: oneshot::Receiver<()>,
    ) -> Result<Ticket, Failure> {
        let slot = self.queue.admit(arrival.owner)?;
        let (index, model) = self.pick(order.model.as_deref())?;
        let picked = Arc::new(Picked { index, model });
        let limit = self.setup.config.timeout();
        let mut wait = Patience {
            gone,
            end: tokio::time::Instant::from_std(arrival.since + limit),
            seconds: limit.as_secs(),
        };
        let measured = wait.over(self.measure(order, &arrival, &picked)).await?;
        let inputs = Inputs {
            prompt_bytes: measured.prompt_bytes,
            pixels: measured.input_pixels,
        };
        let price = &self.setup.config.price;
        let cost = price.of(measured.dry(), inputs, picked.model.native);
        // Not given up half-way: what is reserved must be known.
        let reservation = self.reserve(cost, measured.dry(), &arrival).await?;
        let cancel = Cancel::default();
        let decoded = self.decode(measured, arrival.owner, &picked, &cancel);
        let prepared = match wait.over(decoded).await {
            Ok(prepared) => prepared,
            Err(failure) => {
                cancel.cancel();
                if let Some(reservation) = reservation {
                    self.give_back(reservation).await;
                }
                return Err(failure);
            }
        };
        let Arrival {
            owner,
            route,
            request_id,
            kept,
            since,
        } = arrival;
        let bill = (cost, reservation);
        let job = Job::new(owner, request_id, route, prepared, bill, kept, since);
        let job = Arc::new(job);
        let ticket = Ticket::new(self.clone(), job.clone());
        self.jobs().insert(job.id.clone(), job.clone());
        if let Err(failure) = self.queue.push(slot, job.clone()) {
            self.stop_job(&job, failure.clone());
            return Err(failure);
        }
        self.give_up_in_time(&job);
        Ok(ticket)
    }

    /// What an order asks for, by the headers of its pictures.
    async fn measure(
        &self,
        order: Order,
        arrival: &Arrival,
        picked: &Arc<Picked>,
    ) -> Result<Measured, Failure> {
        let checked = self.ruled(picked, |rules| order.check(rules)).await?;
        if !checked.is_remote() {
            return self.ruled(picked, |rules| checked.measure(rules)).await;
        }
        let checked = self.afford(arrival.owner, picked, checked).await?;
        let turn = self.fetchers.turn(arrival.owner).await;
        let fetch = move |rules: &Rules<'_>| {
            let _turn = turn;
            checked.measure(rules)
        };
        self.ruled(picked, fetch).await
    }

    /// Decodes an order's pictures, in turn with other keys.
    async fn decode(
        &self,
        measured: Measured,
        owner: Owner,
        picked: &Arc<Picked>,
        cancel: &Cancel,
    ) -> Result<Prepared, Failure> {
        let turn = match measured.has_pictures() {
            true => self.decoders.turn(owner).await,
            false => None,
        };
        let cancel = cancel.clone();
        let decode = move |rules: &Rules<'_>| {
            let _turn = turn;
            measured.decode(rules, &cancel)
        };
        self.ruled(picked, decode).await
    }

    /// Refuses who cannot pay for an order whatever its pictures are, before they are
    /// fetched.
    async fn afford(
        &self,
        owner: Owner,
        picked: &Arc<Picked>,
        checked: Checked,
    ) -> Result<Checked, Failure> {
        let dry = move |rules: &Rules<'_>| {
            let dry = checked.dry(rules)?;
            Ok((dry, checked))
        };
        let ((request, prompt_bytes), checked) = self.ruled(picked, dry).await?;
        let inputs = Inputs {
            prompt_bytes,
            pixels: 0,
        };
        let cost = self
            .setup
            .config
            .price
            .of(&request, inputs, picked.model.native);
        self.require_credits(owner, cost).await?;
        Ok(checked)
    }

    /// Runs `work`, which may wait, with what orders for this model are measured against.
    async fn ruled<T: Send + 'static>(
        &self,
        picked: &Arc<Picked>,
        work: impl FnOnce(&Rules<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (service, picked) = (self.clone(), picked.clone());
        blocking(move || {
            let model = &picked.model;
            work(&Rules {
                limits: &service.limits,
                sources: &service.sources,
                loras: service.setup.config.lora_dir.as_deref(),
                model: picked.index,
                context: Context {
                    native: model.native,
                    preset: service.preset(model),
                    refiner: model.refiner,
                    styles: &service.styles,
                },
            })
        })
        .await?
    }

    /// Ends a job if it is not finished in time.
    fn give_up_in_time(&self, job: &Arc<Job>) {
        let limit = self.setup.config.timeout();
        let end = tokio::time::Instant::from_std(job.since + limit);
        let (service, job) = (self.clone(), Arc::downgrade(job));
        tokio::spawn(async move {
            tokio::time::sleep_until(end).await;
            if let Some(job) = job.upgrade()
                && !job.snapshot().state.is_final()
            {
                service.stop_job(&job, Failure::TimedOut(limit.as_secs()));
            }
        });
    }
}
