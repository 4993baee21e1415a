package org.pytorch.executorch

import org.pytorch.executorch.annotations.Experimental

/** A double of ExecuTorch's Android class: the element types that a graph of this project takes or gives, by native code's numbers. */
@Experimental
enum class DType(@JvmField val jniCode: Int) {
    UINT8(0),
    INT8(1),
    INT32(3),
    INT64(4),
    FLOAT(6),
    ;

    companion object {
        @JvmStatic
        fun fromJniCode(jniCode: Int): DType =
            entries.find { it.jniCode == jniCode } ?: throw IllegalArgumentException("No DType found for jniCode $jniCode")
    }
}
