package org.mobilevideogpt.core

import java.security.SecureRandom
import java.util.Random

/**
 * The choice of the next token from the decoder's logits [V]: greedy as in the release, or nucleus sampling.
 *
 * temperature: 0 takes the best token, the lowest id of equals; above 0, one is drawn from softmax(logits / temperature).
 * topP: draw only among the most probable tokens, the fewest whose probabilities sum to at least this (the best is always one).
 * seed: makes the draws repeatable.
 *
 * Errors: [VideoGptException.BadOption] for options out of range, [VideoGptException.LogitsNotFinite] for logits that are not finite.
 */
class Sampler(private val temperature: Double = 0.0, private val topP: Double = 1.0, seed: Long? = null) {
    private val random: Random

    init {
        if (!(temperature.isFinite() && temperature >= 0)) {
            throw VideoGptException.BadOption(
                "the temperature is $temperature: give a number from 0 (always the best token) up, 0.7 for example",
            )
        }
        if (!(topP > 0 && topP <= 1)) {
            throw VideoGptException.BadOption("top-p is $topP: give a number above 0 and up to 1 (1 keeps all tokens)")
        }
        if (seed != null && seed < 0) throw VideoGptException.BadOption("the seed is $seed: give a whole number from 0 to 2^63 - 1")
        random = Random(seed ?: SecureRandom().nextLong())
    }

    /** The id of the next token. */
    operator fun invoke(logits: FloatArray): Int {
        val best = best(logits)
        if (temperature == 0.0) return best
        val probabilities = probabilities(logits)
        var left = random.nextDouble()
        var last = best
        for (id in probabilities.indices) {
            if (probabilities[id] == 0.0) continue
            left -= probabilities[id]
            last = id
            if (left < 0) break
        }
        return last // rounding may leave a rest behind the last one
    }

    /** What is drawn from: [V] -> [V], zero for what is cut off; the kept ones sum to 1. The best alone at a temperature of 0. */
    fun probabilities(logits: FloatArray): DoubleArray {
        val best = best(logits)
        if (temperature == 0.0) return DoubleArray(logits.size).also { it[best] = 1.0 }
        // From the best logit down and in double: a tiny temperature must neither overflow the quotient nor round to 0 itself.
        val softmax = DoubleArray(logits.size) { Math.exp((logits[it].toDouble() - logits[best]) / temperature) }
        val total = softmax.sum()
        for (id in softmax.indices) softmax[id] /= total
        return if (topP < 1) nucleus(softmax) else softmax
    }

    private fun best(logits: FloatArray): Int {
        var best = 0
        for (id in logits.indices) {
            if (!logits[id].isFinite()) throw VideoGptException.LogitsNotFinite()
            if (logits[id] > logits[best]) best = id
        }
        return best
    }

    /** Zeroes the tail; equals keep the order of their ids. */
    private fun nucleus(probabilities: DoubleArray): DoubleArray {
        // Of most vocabularies nearly all have no chance: only what could matter is sorted.
        val floor = (1 - topP) / (2 * probabilities.size)
        val ranked = probabilities.indices.filter { probabilities[it] > floor }.sortedByDescending { probabilities[it] }
        val kept = DoubleArray(probabilities.size)
        var mass = 0.0
        for (id in ranked) {
            if (mass >= topP) break
            kept[id] = probabilities[id]
            mass += probabilities[id]
        }
        for (id in kept.indices) kept[id] /= mass
        return kept
    }
}
