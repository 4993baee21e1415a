package org.pytorch.executorch

import java.io.Closeable
import org.pytorch.executorch.annotations.Experimental

/** A double of ExecuTorch's Android class: the same signatures, over the runtime of the executorch wheel (module_jni.cpp). */
@Experimental
open class Module private constructor(private var handle: Long) : Closeable {
    open fun forward(vararg inputs: EValue): Array<EValue> = execute("forward", *inputs)

    @Synchronized
    open fun execute(methodName: String, vararg inputs: EValue): Array<EValue> {
        check(handle != 0L) { "Module has been destroyed" }
        return executeNative(handle, methodName, inputs)
    }

    @Synchronized
    open fun loadMethod(methodName: String) {
        check(handle != 0L) { "Module has been destroyed" }
        val error = loadMethodNative(handle, methodName)
        if (error != ExecutorchRuntimeException.OK) {
            throw ExecutorchRuntimeException.makeExecutorchException(error, "Failed to load method: $methodName")
        }
    }

    @Synchronized
    open fun getMethods(): Array<String> {
        check(handle != 0L) { "Module has been destroyed" }
        return methodsNative(handle)
    }

    @Synchronized
    open fun destroy() {
        if (handle != 0L) destroyNative(handle)
        handle = 0L
    }

    override fun close() = destroy()

    companion object {
        const val LOAD_MODE_FILE = 0
        const val LOAD_MODE_MMAP = 1
        const val LOAD_MODE_MMAP_USE_MLOCK = 2
        const val LOAD_MODE_MMAP_USE_MLOCK_IGNORE_ERRORS = 3

        init {
            ExecuTorchRuntime.getRuntime()
        }

        /** The double maps the file whatever [loadMode] says. */
        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module {
            ExecuTorchRuntime.validateFilePath(modelPath, "model path")
            require(loadMode in LOAD_MODE_FILE..LOAD_MODE_MMAP_USE_MLOCK_IGNORE_ERRORS) { "no load mode $loadMode" }
            return Module(loadNative(modelPath!!, numThreads))
        }

        @JvmStatic
        private external fun loadNative(path: String, threads: Int): Long

        @JvmStatic
        private external fun methodsNative(handle: Long): Array<String>

        @JvmStatic
        private external fun loadMethodNative(handle: Long, name: String): Int

        @JvmStatic
        private external fun executeNative(handle: Long, name: String, inputs: Array<out EValue>): Array<EValue>

        @JvmStatic
        private external fun destroyNative(handle: Long)
    }
}
