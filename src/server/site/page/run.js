// One run: sends it, follows it to its end over broken connections, cancels it.

import * as api from "./api.js";

const ENDS = ["done", "failed", "cancelled"];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Run {
  /**
   * @param body what is sent; kept, so that its settings can be taken up again
   * @param onchange called with the run after each change
   */
  constructor(body, onchange) {
    this.body = body;
    this.onchange = onchange;
    this.id = null;
    this.phase = "sending"; // sending, queued, running, reconnecting, cancelling
    this.position = null;
    this.step = 0;
    this.steps = body.num_inference_steps;
    this.previews = [];
    this.began = Date.now();
    this.firstStep = null; // when, and which: the first is slow and would spoil the estimate
    this.wantsCancel = false;
    this.ended = null; // the job, where cancelling answered before the stream did
    this.leaving = new AbortController();
  }

  /** Sends it and follows it; gives the job as it ended, with status done, failed or cancelled. */
  async start(onaccepted) {
    const { id, position } = await api.submit(this.body);
    this.id = id;
    this.change({ phase: "queued", position });
    onaccepted(this);
    if (this.wantsCancel) await this.cancel();
    return this.follow();
  }

  /** Follows a run that was sent before. */
  resume(id, began) {
    this.id = id;
    this.began = began;
    return this.follow();
  }

  async follow() {
    for (let failures = 0; ; ) {
      try {
        const end = this.ended ?? (await this.read());
        if (end) return end;
        const job = await api.job(this.id);
        if (ENDS.includes(job.status)) return job;
        this.takeJob(job);
        failures = 0;
      } catch (error) {
        const lost = error instanceof api.ApiError && [401, 403, 404].includes(error.status);
        if (this.ended) return this.ended;
        if (lost) throw error;
        this.change({ phase: "reconnecting" });
      }
      failures += 1;
      await pause(Math.min(500 * 2 ** (failures - 1), 5000));
    }
  }

  /** The stream's events up to the last one; null where the stream broke off. */
  async read() {
    for await (const { event, data } of api.events(this.id, this.leaving.signal)) {
      if (ENDS.includes(event)) return data;
      this.take(event, data);
    }
    return null;
  }

  take(event, data) {
    if (event === "queued") this.moveTo("queued", { position: data.position });
    if (event === "step") this.takeStep(data.step, data.steps);
    if (event === "preview") {
      this.previews[data.index ?? 0] = data.image;
      this.moveTo("running");
    }
  }

  takeJob(job) {
    if (job.status === "queued") this.moveTo("queued", { position: job.position });
    else if (job.step) this.takeStep(job.step, job.steps);
  }

  takeStep(step, steps) {
    if (!this.firstStep) this.firstStep = { at: performance.now(), step };
    this.moveTo("running", { step, steps });
  }

  moveTo(phase, more = {}) {
    this.change({ ...more, phase: this.phase === "cancelling" ? this.phase : phase });
  }

  change(what) {
    Object.assign(this, what);
    this.onchange(this);
  }

  async cancel() {
    this.wantsCancel = true;
    this.change({ phase: "cancelling" });
    if (!this.id) return; // start() asks again once there is something to cancel
    try {
      const job = await api.cancel(this.id);
      if (ENDS.includes(job.status)) {
        this.ended = job;
        this.leaving.abort();
      }
    } catch (error) {
      // Too late to cancel is no harm: the stream tells how it ended.
      if (error.status === 0) this.change({ phase: "reconnecting" });
    }
  }

  /** Seconds since it was sent. */
  get elapsed() {
    return (Date.now() - this.began) / 1000;
  }

  /** Seconds that it will still take, or null where that cannot be told yet. */
  get remaining() {
    const first = this.firstStep;
    if (!first || this.step - first.step < 2) return null;
    const each = (performance.now() - first.at) / (this.step - first.step);
    return (each * (this.steps - this.step)) / 1000;
  }
}
