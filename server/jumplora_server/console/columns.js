// The columns of the table of tasks, and what stands in each.

/** The columns: `sort` is the server's name of their order, `first` the one to begin with, `about`
 *  what stands in them. */
export const COLUMNS = [
  {
    name: "task",
    title: "Task",
    about: "The task's id, and the first digits of the version that answers.",
    sort: "task_id",
    first: "ascending",
  },
  {
    name: "state",
    title: "State",
    about:
      "Ready: in memory. Cold: loaded when it is asked for. Failed: it does not load. Degraded: " +
      "what was published last does not answer, and the version before it does. Staged: another " +
      "version gets this share of the requests; while it loads, or where it fails, it gets none.",
    sort: "state",
    first: "ascending",
  },
  {
    name: "density",
    title: "Density",
    about:
      "How many of the weights that it may change the adapter does change. Masked: some of them, " +
      "as its mask says; lowrank: all of them a little.",
    sort: "density",
    first: "ascending",
  },
  {
    name: "lineage",
    title: "Lineage",
    about: "How many adapters, learned before it, the adapter is added to.",
  },
  {
    name: "memory",
    title: "Memory",
    about: "What its versions take of the memory for adapters.",
    sort: "memory",
    first: "descending",
  },
  {
    name: "requests",
    title: "Requests/s",
    about: "The mean of the last 5 minutes, which the curve shows.",
    sort: "requests",
    first: "descending",
  },
  {
    name: "p95",
    title: "p95",
    about: "95 of 100 requests of the last 5 minutes took less time than this, within 12 %.",
    sort: "p95",
    first: "descending",
  },
  {
    name: "failed",
    title: "Failed",
    about: "Requests of the last 5 minutes that the server failed.",
    sort: "failed",
    first: "descending",
  },
  {
    name: "accuracy",
    title: "Accuracy",
    about: "What the adapter's maker measured; this server measures none.",
    sort: "accuracy",
    first: "descending",
  },
  {
    name: "canaries",
    title: "Canaries",
    about:
      "Prompts that the adapter brings with their answers: how many of them were right on this " +
      "server. Below a share that its operator sets, a version is refused.",
    sort: "canaries",
    first: "ascending",
  },
  { name: "actions", title: "Actions", isUnseen: true },
];
