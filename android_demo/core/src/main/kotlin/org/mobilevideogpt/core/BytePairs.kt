package org.mobilevideogpt.core

import java.util.PriorityQueue

/** The merges of a byte-level BPE model: which pairs of ids become one, the ones learned first first. */
internal class BytePairs(capacity: Int) {
    // Open addressing in plain arrays: a hundred thousand boxed keys would take as many bytes as the model's text graphs.
    private val mask = Integer.highestOneBit(maxOf(capacity, 8) * 2 - 1) * 2 - 1
    private val keys = LongArray(mask + 1) { -1L }
    private val ranks = IntArray(mask + 1)
    private val merged = IntArray(mask + 1)

    /** That [left] and [right] become [id]. Ranks of equal pairs: the later one counts. */
    fun add(left: Int, right: Int, rank: Int, id: Int) {
        val slot = slot(key(left, right))
        keys[slot] = key(left, right)
        ranks[slot] = rank
        merged[slot] = id
    }

    /** Ids of single bytes in, those of the tokens out: always the merge of the lowest rank, the leftmost of equals. */
    fun merge(symbols: IntArray): IntArray {
        val ids = symbols.copyOf()
        val before = IntArray(ids.size) { it - 1 }
        val after = IntArray(ids.size) { if (it + 1 < ids.size) it + 1 else -1 }
        val waiting = PriorityQueue<Merge>()
        fun offer(left: Int, right: Int) {
            if (left < 0 || right < 0) return
            val slot = slot(key(ids[left], ids[right]))
            if (keys[slot] >= 0) waiting += Merge(ranks[slot], left, merged[slot])
        }
        for (i in 0 until ids.size - 1) offer(i, i + 1)
        while (true) {
            val best = waiting.poll() ?: break
            val left = best.left
            val right = if (ids[left] < 0) -1 else after[left]
            if (right < 0) continue
            val slot = slot(key(ids[left], ids[right]))
            if (keys[slot] < 0 || merged[slot] != best.id) continue // what was offered has changed meanwhile
            ids[left] = best.id
            ids[right] = GONE
            after[left] = after[right]
            if (after[right] >= 0) before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        }
        return ids.filter { it != GONE }.toIntArray()
    }

    private class Merge(val rank: Int, val left: Int, val id: Int) : Comparable<Merge> {
        override fun compareTo(other: Merge): Int = if (rank != other.rank) rank.compareTo(other.rank) else left.compareTo(other.left)
    }

    private fun key(left: Int, right: Int): Long = (left.toLong() shl 32) or right.toLong()

    /** Where a key stands, or the free place where it would. */
    private fun slot(key: Long): Int {
        var slot = ((key * -0x61c8864680b583ebL) ushr 32).toInt() and mask
        while (keys[slot] >= 0 && keys[slot] != key) slot = (slot + 1) and mask
        return slot
    }

    private companion object {
        const val GONE = -1
    }
}
