package org.pytorch.executorch

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer
import org.pytorch.executorch.annotations.Experimental

/** A double of ExecuTorch's Android class for float32 and int64, what the graphs of this project take and give. As there a tensor lies
 * over a direct buffer of native byte order whose capacity is its number of elements, and reading one copies it. */
@Experimental
abstract class Tensor internal constructor(shape: LongArray) {
    @JvmField
    protected val shape: LongArray = shape.copyOf()

    fun numel(): Long = numel(shape)

    fun shape(): LongArray = shape.copyOf()

    abstract fun dtype(): DType

    /** Called by native code. */
    fun dtypeJniCode(): Int = dtype().jniCode

    open val dataAsFloatArray: FloatArray get() = throw unfit("return data as float array")

    open val dataAsLongArray: LongArray get() = throw unfit("return data as long array")

    open fun copyDataInto(dst: FloatBuffer) {
        throw unfit("copy data into FloatBuffer")
    }

    open fun copyDataInto(dst: LongBuffer) {
        throw unfit("copy data into LongBuffer")
    }

    /** Called by native code. */
    open fun getRawDataBuffer(): Buffer = throw unfit("return raw data buffer")

    private fun unfit(what: String) = IllegalStateException("Tensor of type ${javaClass.simpleName} cannot $what.")

    private class OfFloats(private val data: FloatBuffer, shape: LongArray) : Tensor(shape) {
        override fun dtype(): DType = DType.FLOAT

        override fun getRawDataBuffer(): Buffer = data

        override val dataAsFloatArray: FloatArray
            get() {
                data.rewind()
                return FloatArray(data.remaining()).also { data.get(it) }
            }

        override fun copyDataInto(dst: FloatBuffer) {
            data.rewind()
            dst.put(data)
        }
    }

    private class OfLongs(private val data: LongBuffer, shape: LongArray) : Tensor(shape) {
        override fun dtype(): DType = DType.INT64

        override fun getRawDataBuffer(): Buffer = data

        override val dataAsLongArray: LongArray
            get() {
                data.rewind()
                return LongArray(data.remaining()).also { data.get(it) }
            }

        override fun copyDataInto(dst: LongBuffer) {
            data.rewind()
            dst.put(data)
        }
    }

    companion object {
        @JvmStatic
        fun allocateFloatBuffer(numElements: Int): FloatBuffer = allocate(numElements * Float.SIZE_BYTES).asFloatBuffer()

        @JvmStatic
        fun allocateLongBuffer(numElements: Int): LongBuffer = allocate(numElements * Long.SIZE_BYTES).asLongBuffer()

        @JvmStatic
        fun fromBlob(data: FloatArray, shape: LongArray): Tensor = fromBlob(allocateFloatBuffer(data.size).apply { put(data) }, shape)

        @JvmStatic
        fun fromBlob(data: LongArray, shape: LongArray): Tensor = fromBlob(allocateLongBuffer(data.size).apply { put(data) }, shape)

        @JvmStatic
        fun fromBlob(data: FloatBuffer, shape: LongArray): Tensor {
            check(data, data.isDirect, data.order(), shape)
            return OfFloats(data, shape)
        }

        @JvmStatic
        fun fromBlob(data: LongBuffer, shape: LongArray): Tensor {
            check(data, data.isDirect, data.order(), shape)
            return OfLongs(data, shape)
        }

        @JvmStatic
        fun numel(shape: LongArray): Long = shape.fold(1L) { product, size -> product * size }

        /** Called by native code: a tensor over memory of a method, as it is until the method's next run. */
        @JvmStatic
        private fun nativeNewTensor(data: ByteBuffer, shape: LongArray, dtype: Int): Tensor {
            data.order(ByteOrder.nativeOrder())
            return when (DType.fromJniCode(dtype)) {
                DType.FLOAT -> OfFloats(data.asFloatBuffer(), shape)
                DType.INT64 -> OfLongs(data.asLongBuffer(), shape)
                else -> throw IllegalArgumentException("the double gives float32 and int64 tensors only")
            }
        }

        private fun allocate(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

        private fun check(data: Buffer, direct: Boolean, order: ByteOrder, shape: LongArray) {
            require(shape.all { it >= 0 }) { "Shape elements must be non negative" }
            require(numel(shape) == data.capacity().toLong()) {
                "Inconsistent data capacity:${data.capacity()} and shape number elements:${numel(shape)} shape:${shape.contentToString()}"
            }
            require(direct) { "Data buffer must be direct (java.nio.ByteBuffer#allocateDirect)" }
            require(order == ByteOrder.nativeOrder()) { "Data buffer must have native byte order (java.nio.ByteOrder#nativeOrder)" }
        }
    }
}
