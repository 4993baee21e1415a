package org.pytorch.executorch

import org.pytorch.executorch.annotations.Experimental

/** A double of ExecuTorch's Android class. [mTypeCode] is read by native code. */
@Experimental
class EValue private constructor(@JvmField val mTypeCode: Int, @JvmField var mData: Any?) {
    val isNone: Boolean get() = mTypeCode == NONE
    val isTensor: Boolean get() = mTypeCode == TENSOR
    val isString: Boolean get() = mTypeCode == STRING
    val isDouble: Boolean get() = mTypeCode == DOUBLE
    val isInt: Boolean get() = mTypeCode == INT
    val isBool: Boolean get() = mTypeCode == BOOL

    fun toTensor(): Tensor = held(TENSOR) as Tensor

    fun toStr(): String = held(STRING) as String

    fun toDouble(): Double = held(DOUBLE) as Double

    fun toInt(): Long = held(INT) as Long

    fun toBool(): Boolean = held(BOOL) as Boolean

    private fun held(typeCode: Int): Any? {
        check(mTypeCode == typeCode) { "Expected EValue type ${NAMES[typeCode]}, actual type ${NAMES[mTypeCode]}" }
        return mData
    }

    companion object {
        private const val NONE = 0
        private const val TENSOR = 1
        private const val STRING = 2
        private const val DOUBLE = 3
        private const val INT = 4
        private const val BOOL = 5
        private val NAMES = arrayOf("None", "Tensor", "String", "Double", "Int", "Bool")

        @JvmStatic
        fun optionalNone(): EValue = EValue(NONE, null)

        @JvmStatic
        fun from(tensor: Tensor): EValue = EValue(TENSOR, tensor)

        @JvmStatic
        fun from(value: String): EValue = EValue(STRING, value)

        @JvmStatic
        fun from(value: Double): EValue = EValue(DOUBLE, value)

        @JvmStatic
        fun from(value: Long): EValue = EValue(INT, value)

        @JvmStatic
        fun from(value: Boolean): EValue = EValue(BOOL, value)
    }
}
