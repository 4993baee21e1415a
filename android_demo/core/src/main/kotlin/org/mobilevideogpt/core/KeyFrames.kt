package org.mobilevideogpt.core

/**
 * The [count] best frames of each chunk in time order: scores [chunks][frames] -> indices [chunks][count].
 *
 * [topk] false takes the lowest scores. Scores within [tie] (relative) of the best one left tie with it, and a tie goes to the lower
 * index, so that every host language picks the same frames. Computed in double.
 */
fun selectKeyFrames(scores: Array<FloatArray>, topk: Boolean, count: Int, tie: Double): Array<IntArray> =
    Array(scores.size) { chunk ->
        val ranked = DoubleArray(scores[chunk].size) { if (topk) scores[chunk][it].toDouble() else -scores[chunk][it].toDouble() }
        require(count in 1..ranked.size) { "$count of ${ranked.size} frames cannot be chosen" }
        val left = ranked.indices.toMutableList()
        val chosen = IntArray(count) {
            var best = ranked[left[0]]
            for (i in left) if (ranked[i] > best) best = ranked[i] // not maxOf: it would let a score that is no number win
            val first = left.firstOrNull { ranked[it] >= best - tie * Math.abs(best) } ?: left[0] // scores that are no numbers tie
            first.also { left.remove(it) }
        }
        chosen.sort()
        chosen
    }
