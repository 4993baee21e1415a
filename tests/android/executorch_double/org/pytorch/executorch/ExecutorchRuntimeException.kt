package org.pytorch.executorch

/** A double of ExecuTorch's Android class. [errorCode] is native code's (executorch/runtime/core/error.h). */
open class ExecutorchRuntimeException(val errorCode: Int, details: String?) :
    RuntimeException("[ExecuTorch Error 0x${Integer.toHexString(errorCode)}] ${meaning(errorCode)}: ${details ?: "No details provided"}") {

    class ExecutorchInvalidArgumentException(details: String?) : ExecutorchRuntimeException(INVALID_ARGUMENT, details)

    companion object {
        const val OK = 0x00
        const val INTERNAL = 0x01
        const val INVALID_STATE = 0x02
        const val NOT_SUPPORTED = 0x10
        const val INVALID_ARGUMENT = 0x12
        const val OPERATOR_MISSING = 0x14
        const val NOT_FOUND = 0x20
        const val MEMORY_ALLOCATION_FAILED = 0x21
        const val ACCESS_FAILED = 0x22
        const val INVALID_PROGRAM = 0x23

        private fun meaning(errorCode: Int): String =
            when (errorCode) {
                INTERNAL -> "Internal error"
                INVALID_STATE -> "Invalid state"
                NOT_SUPPORTED -> "Operation not supported"
                INVALID_ARGUMENT -> "Invalid argument"
                OPERATOR_MISSING -> "Operator missing"
                NOT_FOUND -> "Resource not found"
                MEMORY_ALLOCATION_FAILED -> "Memory allocation failed"
                ACCESS_FAILED -> "Access failed"
                INVALID_PROGRAM -> "Invalid program"
                else -> "Unknown error code 0x${Integer.toHexString(errorCode)}"
            }

        /** Called by native code too. */
        @JvmStatic
        fun makeExecutorchException(errorCode: Int, details: String?): RuntimeException =
            when (errorCode) {
                INVALID_ARGUMENT -> ExecutorchInvalidArgumentException(details)
                else -> ExecutorchRuntimeException(errorCode, details)
            }
    }
}
