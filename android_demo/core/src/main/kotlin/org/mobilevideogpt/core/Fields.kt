package org.mobilevideogpt.core

/**
 * One object of parsed JSON, read strictly: a missing or an unknown key, a wrong type and a value out of range are refused with the
 * place, such as `graphs.decoder.inputs[1].shape[0]`. Nothing is converted or repaired.
 */
internal class Fields private constructor(private val map: Map<*, *>, private val where: String) {
    private val asked = HashSet<String>()

    /** Whether there is such a key. */
    fun has(key: String): Boolean = map.containsKey(key).also { asked += key }

    fun text(key: String): String = string(get(key), place(key))

    /** A name: not empty, without control characters. */
    fun name(key: String): String = name(get(key), place(key))

    fun flag(key: String): Boolean = get(key) as? Boolean ?: refuse(place(key), "true or false", get(key))

    fun int(key: String, minimum: Int = Int.MIN_VALUE): Int = int(get(key), place(key), minimum)

    fun long(key: String, minimum: Long = Long.MIN_VALUE): Long {
        val value = (get(key) as? JsonNumber)?.literal?.toLongOrNull() ?: refuse(place(key), "an integer", get(key))
        return if (value >= minimum) value else refuse(place(key), "$minimum or more", get(key))
    }

    fun number(key: String, minimum: Double = -Double.MAX_VALUE, maximum: Double = Double.MAX_VALUE): Double =
        number(get(key), place(key)).also {
            if (it < minimum || it > maximum) refuse(place(key), if (maximum == 1.0) "a share from 0 to 1" else "0 or more", get(key))
        }

    fun choice(key: String, choices: Collection<String>): String {
        val value = get(key)
        return if (value in choices) value as String else refuse(place(key), "one of ${choices.joinToString(", ")}", value)
    }

    fun matching(key: String, pattern: Regex, says: String): String =
        text(key).also { if (!pattern.matches(it)) refuse(place(key), says, it) }

    fun <T> list(key: String, size: Int? = null, item: (value: Any?, where: String) -> T): List<T> = list(get(key), place(key), size, item)

    /** An object of any keys. */
    fun <T> map(key: String, item: (key: String, value: Any?, where: String) -> T): Map<String, T> {
        val value = get(key) as? Map<*, *> ?: refuse(place(key), "an object", get(key))
        return value.entries.associate { (name, one) -> (name as String) to item(name, one, joined(place(key), name)) }
    }

    /** An object that is not looked into. */
    fun tree(key: String): Map<String, Any?> = map(key) { _, value, _ -> value }

    fun <T> fields(key: String, read: Fields.() -> T): T = of(get(key), place(key), read)

    /** The value of a key, whatever it is. */
    fun get(key: String): Any? {
        asked += key
        if (!map.containsKey(key)) throw JsonException("${place(key)} is missing")
        return map[key]
    }

    /** This object, whose other keys are another reading's concern. */
    fun anyKeys(): Fields = also { map.keys.mapTo(asked) { it as String } }

    fun place(key: String): String = joined(where, key)

    companion object {
        /** Reads the object [value], which stands at [where] (empty for the whole), and refuses the keys that [read] did not ask for. */
        fun <T> of(value: Any?, where: String, read: Fields.() -> T): T {
            val fields = Fields(value as? Map<*, *> ?: refuse(where, "an object", value), where)
            return fields.read().also {
                val unknown = fields.map.keys.firstOrNull { it !in fields.asked } ?: return@also
                throw JsonException("${fields.place(unknown as String)} is not known to this version")
            }
        }

        fun string(value: Any?, where: String): String = value as? String ?: refuse(where, "a string", value)

        fun name(value: Any?, where: String): String =
            string(value, where).also { if (it.isEmpty() || it.any { c -> c < ' ' }) refuse(where, "a name, not empty", it) }

        fun int(value: Any?, where: String, minimum: Int = Int.MIN_VALUE): Int {
            val found = (value as? JsonNumber)?.literal?.toIntOrNull() ?: refuse(where, "an integer", value)
            return if (found >= minimum) found else refuse(where, "$minimum or more", value)
        }

        fun number(value: Any?, where: String): Double {
            val found = (value as? JsonNumber)?.literal?.toDouble() ?: refuse(where, "a finite number", value)
            return if (found.isFinite()) found else refuse(where, "a finite number", value)
        }

        fun <T> list(value: Any?, where: String, size: Int? = null, item: (value: Any?, where: String) -> T): List<T> {
            if (value !is List<*> || (size != null && value.size != size)) {
                refuse(where, if (size == null) "a list" else "a list of $size", value)
            }
            return value.mapIndexed { i, one -> item(one, "$where[$i]") }
        }

        /** Says what must stand at [where], and what stands there. */
        fun refuse(where: String, wanted: String, value: Any?): Nothing {
            val shown = when (value) {
                is Map<*, *> -> "an object"
                is List<*> -> "a list of ${value.size}"
                is String -> quoted(value)
                else -> value.toString().take(60)
            }
            throw JsonException("${where.ifEmpty { "the whole" }} must be $wanted, not $shown")
        }

        private fun joined(where: String, key: String): String {
            val step = if (PLAIN_KEY.matches(key)) key else quoted(key)
            return if (where.isEmpty()) step else "$where.$step"
        }

        private val PLAIN_KEY = Regex("[A-Za-z0-9_./-]{1,80}")
    }
}
