"""The glossary of what is learned: episodes, evaluations, cloning, losses and ratios. The formulas are in rlvla3/algorithms/."""

from __future__ import annotations

from rlvla3.observability.glossary.metric import Group, Metric

SHARE, NATS, EPISODES = "share from 0 to 1", "nats", "episodes"
RATIO = "probability ratio"


def _rates(line: str, group: str, name: str, whose: str) -> tuple[Metric, ...]:
    """Success among episodes. line: its place. group, name: of its curves. whose: of what the episodes are."""
    narrower = "It becomes narrower with more episodes: 96 episodes give about 10 points to each side."
    return (
        Metric(f"Episodes {whose} with success.", EPISODES, f"{line}successes"),
        Metric(
            f"The success rate of the episodes {whose}.",
            SHARE,
            "",
            f"{group}/{name}",
            "successes / episodes",
            "It rises over the run. A single point varies by about sqrt(rate * (1 - rate) / episodes).",
            "If it does not rise, look at learner/explained_variance, learner/advantage_std, learner/approx_kl and learner/clip_share, in this order.",
        ),
        Metric(f"All episodes {whose}.", EPISODES, f"{line}episodes", f"{group}_episodes/{name}"),
        Metric("The lower end of the 95 % Wilson score interval of the success rate.", SHARE, f"{line}low", f"{group}_low/{name}", normal=narrower),
        Metric("The upper end of the 95 % Wilson score interval of the success rate.", SHARE, f"{line}high", f"{group}_high/{name}", normal=narrower),
    )


def _means(line: str, return_: str, steps: str) -> tuple[Metric, ...]:
    """Means over episodes. return_, steps: their curves."""
    return (
        Metric(
            "The mean return of an episode: the undiscounted sum of its rewards.",
            "reward of the simulator",
            f"{line}mean_return",
            return_,
            normal="It rises over the run. Its size is a matter of the simulator.",
            otherwise="If it rises and success does not, the policy collects reward without doing the task: look at videos, and at the reward.",
        ),
        Metric("The mean length of an episode.", "environment steps", f"{line}mean_steps", steps, normal="It falls where success ends an episode."),
    )


def _learner(name: str, unit: str, meaning: str, formula: str = "", normal: str = "", otherwise: str = "") -> Metric:
    return Metric(meaning, unit, f"update.learner.{name}", f"learner/{name}", formula, normal, otherwise)


SLOWER = "Lower training.learning_rate or training.epochs, or set algorithm.kl_stop."
FRESHER = "Lower engine.max_staleness or training.learning_rate."
AROUND_1 = "Near 1."

LEARNING: tuple[Group, ...] = (
    Group(
        "Episodes of training",
        "They have exploration noise, so their success is below that of an evaluation. The tickets of an update that were set aside have no episode.",
        (
            *_rates("update.rollouts.[per_task.{task}.]", "rollouts", "success", "of the update"),
            *_means("update.rollouts.[per_task.{task}.]", "rollouts/return", "rollouts/steps"),
        ),
    ),
    Group(
        "Evaluations",
        "They have no exploration noise, and the same initial states each time. Each point of a curve is at the version that was evaluated. {task} is success "
        "for all tasks together; where there are several tasks, each has its own curve too.",
        (
            *_rates("evaluation.[per_task.{task}.]", "evaluation", "{task}", "of the evaluation"),
            *_means("evaluation.[per_task.{task}.]", "", ""),
            Metric("When it took place: before, during or after training; eval for an evaluation without training.", line="evaluation.when"),
            Metric("The version of the policy that was evaluated.", "updates", "evaluation.version"),
            Metric("The published protocol that it followed. Left out where there is none.", line="evaluation.protocol"),
            Metric("Whether it is the best one so far, so that checkpoints/best is its version. Left out where it is not.", line="evaluation.best"),
            Metric("False where the evaluation ended before all of its episodes. Left out where it is complete.", line="evaluation.complete"),
            Metric("How many episodes it was to have. Left out where it is complete.", EPISODES, "evaluation.planned"),
            Metric("Which episodes of its protocol it lacks, in words. Left out where it lacks none.", line="evaluation.deviations"),
            Metric("How many initial states of a fixed set had an episode.", "initial states", "evaluation.initial_states.states"),
            Metric(
                "How many of these states the policy was trained on.",
                "initial states",
                "evaluation.initial_states.trained_on",
                normal="0.",
                otherwise="The success rate says less about new states. Set simulator.initial_states so that evaluation has states of its own.",
            ),
            Metric("Whether all states that the policy was trained on are known.", line="evaluation.initial_states.complete"),
            Metric("Episodes of the state that had the fewest.", EPISODES, "evaluation.initial_states.least"),
            Metric("Episodes of the state that had the most.", EPISODES, "evaluation.initial_states.most", normal="The same as least."),
            Metric("States of evaluation without an episode.", "initial states", "evaluation.initial_states.left_out", normal="0."),
            Metric("How many states the fixed set of a task has.", "initial states", "evaluation.initial_states.per_task.{task}.of"),
            Metric("The episodes from a state, by its number.", EPISODES, "evaluation.initial_states.per_task.{task}.episodes.{state}"),
            Metric("The states of a task that the policy was trained on.", "number of a state", "evaluation.initial_states.per_task.{task}.trained_on"),
        ),
    ),
    Group(
        "Cloning",
        "Behaviour cloning before training. The x axis of its curve is the cloning step.",
        (
            Metric("The cloning step.", "optimizer steps", "clone.step"),
            Metric("The cloning steps in all.", "optimizer steps", "clone.total"),
            Metric(
                "The loss of the cloning step.",
                "as the head of the policy has it",
                "clone.loss",
                "clone/loss",
                "the loss of the action head on demonstrated actions, mean over decisions",
                "It falls fast, then slowly.",
                "If it stays high, lower clone.learning_rate; if it still falls at the end, raise clone.steps.",
            ),
        ),
    ),
    Group(
        "Losses",
        "Means over the decisions that the update learned from, over all of its epochs. A metric is left out where it does not apply.",
        (
            _learner(
                "policy_loss",
                "advantage",
                "What the policy's gradient is made from.",
                "-mean(weight * surrogate(ratio, advantage))",
                "Around 0, of either sign. It does not fall as a supervised loss does, so its size says little.",
                "If it jumps, look at learner/ratio_max and learner/gradient_norm.",
            ),
            _learner(
                "value_loss",
                "reward squared",
                "The error of the critic during training passes. Without a critic it means nothing.",
                "mean((V - target)^2), clipped by training.critic.clip",
                "It falls in the first updates. It may rise where returns rise.",
                "Look at learner/explained_variance, which does not depend on the size of returns.",
            ),
            _learner(
                "critic_replay_loss",
                "reward squared",
                "The error of the critic during its extra passes over the last updates (training.critic.epochs).",
                "mean((V - target)^2)",
                "At or below learner/value_loss.",
                "If it is far below learner/value_loss, the critic learns old episodes by heart: lower training.critic.epochs.",
            ),
            _learner(
                "entropy",
                NATS,
                "The entropy of an action, summed over its dimensions. Only heads that have one in closed form report it.",
                "mean over decisions of sum(entropy of executed actions) / chunk",
                "It falls slowly. For continuous actions it may be negative.",
                "If it falls fast while success does not rise, raise algorithm.entropy or lower training.learning_rate.",
            ),
            _learner(
                "reference_kl",
                NATS,
                "How far the policy is from the frozen reference, version 0 (algorithm.reference).",
                "KL(policy || reference), estimated by algorithm.reference.estimator",
                "It rises slowly from 0.",
                "If it grows without success, raise algorithm.reference.weight; if it stays near 0 and nothing is learned, lower it.",
            ),
            _learner(
                "gradient_norm",
                "number",
                "The norm of the actor's gradient before it is clipped, mean over the optimizer steps. Left out while the critic warms up.",
                "sqrt(sum of squares)",
                "Of the size of training.gradient_clip or smaller, without a trend.",
                "If it is many times the clip all the time, lower training.learning_rate; a single peak is harmless.",
            ),
            _learner("learning_rate", "number", "The learning rate of the actor's last optimizer step.", normal="As training.schedule says."),
            _learner(
                "epochs",
                "epochs",
                "Passes over the update.",
                normal="training.epochs. In the first update it may be 1: that update only measures advantages, or trains only the critic.",
                otherwise="If it is often lower, algorithm.kl_stop ends updates early: lower training.learning_rate, or raise algorithm.kl_stop.",
            ),
            _learner("optimizer_steps", "optimizer steps", "Steps of the actor in this update.", "training.steps * epochs", "0 while the critic warms up."),
        ),
    ),
    Group(
        "Advantages",
        "Over the decisions that the update learned from.",
        (
            _learner("advantage_mean", "reward", "The mean advantage before it is normalised.", normal="Near 0 once the critic is good."),
            _learner(
                "advantage_std",
                "reward",
                "The standard deviation of advantages before they are normalised.",
                normal="Above 0, without jumps.",
                otherwise="Near 0, all episodes end alike and nothing can be learned: use easier or harder tasks, larger groups, or more exploration noise.",
            ),
            _learner(
                "explained_variance",
                "number up to 1",
                "How much of the value targets the critic explains.",
                "1 - Var(target - value) / Var(target)",
                "It rises to 0.3 and more.",
                "At 0 or below, advantages are mostly noise: raise training.critic.epochs or training.critic.warmup, or lower algorithm.lam.",
            ),
            _learner(
                "filtered_share",
                SHARE,
                "Tickets whose group all succeeded or all failed, and was left out (algorithm.filter_groups).",
                "1 - tickets learned from / tickets",
                "Below 0.7.",
                "Near 1, most of the work is wasted: use larger groups (algorithm.group_size), or tasks that succeed now and then.",
            ),
        ),
    ),
    Group(
        "How far an update goes",
        "Ratios of the policy to its anchor, over the terms that algorithm.ratio names, in all epochs. The anchor is the policy that the clip is around.",
        (
            _learner("approx_kl", NATS, "KL(anchor || policy), mean over all epochs.", "mean((r - 1) - log r)", "0.001 to 0.05.", SLOWER),
            _learner("approx_kl_last", NATS, "The same in the last epoch. algorithm.kl_stop looks at it.", "mean((r - 1) - log r)", "0.001 to 0.1.", SLOWER),
            _learner(
                "clip_share",
                SHARE,
                "Ratios outside the clip. They have no gradient, or a wrong one.",
                "share of r < 1 - clip_low or r > 1 + clip_high",
                "0.01 to 0.3. It is 0 in an update with a single optimizer step.",
                f"Above: {SLOWER[0].lower()}{SLOWER[1:]} If it is 0 for many updates and nothing is learned, raise training.learning_rate.",
            ),
            _learner("ratio_mean", RATIO, "The mean ratio.", "mean(r)", AROUND_1, SLOWER),
            _learner("ratio_max", RATIO, "The largest ratio.", "max(r)", "Below about 10. With algorithm.ratio=chunk it may be larger.", SLOWER),
            _learner("ratio_p05", RATIO, "The 5 % quantile of the ratio.", normal="0.7 to 1.", otherwise=SLOWER),
            _learner("ratio_p50", RATIO, "The median of the ratio.", normal=AROUND_1, otherwise=SLOWER),
            _learner("ratio_p95", RATIO, "The 95 % quantile of the ratio.", normal="1 to 1.4.", otherwise=SLOWER),
        ),
    ),
    Group(
        "What staleness costs",
        "Ratios w of the policy with which the update began to the policies that made its decisions. docs/algorithms.md has more.",
        (
            _learner(
                "effective_sample_size",
                SHARE,
                "The share of the decisions that would weigh as much if all of them were fresh.",
                "sum(w)^2 / (N sum(w^2))",
                "Above 0.9. It is 1 where nothing is stale.",
                f"Below 0.5, staleness costs learning: {FRESHER[0].lower()}{FRESHER[1:]}",
            ),
            _learner("staleness_kl", NATS, "How far the acting policies are from the policy of the update.", "mean((w - 1) - log w)", "Below 0.05.", FRESHER),
            _learner("staleness_ratio_mean", RATIO, "The mean of w.", "mean(w)", AROUND_1, FRESHER),
            _learner("staleness_ratio_p05", RATIO, "The 5 % quantile of w.", normal="0.7 to 1.", otherwise=FRESHER),
            _learner("staleness_ratio_p95", RATIO, "The 95 % quantile of w.", normal="1 to 1.4.", otherwise=FRESHER),
        ),
    ),
    Group(
        "Sampling is not training",
        "Ratios r of the trainer's probabilities to those that generators recorded, for the same decisions and the same weights. Only rounding differs. They "
        "are left out of an update that has no decision whose weights the trainer still has.",
        (
            _learner("sampler_mismatch_mean", "number", "The mean distance.", "mean(|r - 1|)", "Below 1e-4 in fp32, and below 0.05 in bf16."),
            _learner(
                "sampler_mismatch_p99",
                "number",
                "The 99 % quantile of the distance.",
                "99 % quantile of |r - 1|",
                "Below 1e-3 in fp32, and below 0.2 in bf16. A notice says when it is above what rounding explains.",
                "Measure the policy alone with `rlvla3 bench mismatch`, or set algorithm.sampler_correction=truncated.",
            ),
            _learner("sampler_mismatch_kl", NATS, "The same as a KL divergence.", "mean((r - 1) - log r)", "Near 0."),
        ),
    ),
)
