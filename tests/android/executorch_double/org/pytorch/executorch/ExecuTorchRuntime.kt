package org.pytorch.executorch

import java.io.File

/** The process's runtime. On Android its library lies in the APK; here the system property `executorch.libraries` names it and
 * what is to be loaded behind it (this project's operators), separated as paths are. */
class ExecuTorchRuntime private constructor() {
    companion object {
        private val runtime: ExecuTorchRuntime

        init {
            val libraries = checkNotNull(System.getProperty("executorch.libraries")) { "set -Dexecutorch.libraries" }
            libraries.split(File.pathSeparator).forEach(System::load)
            runtime = ExecuTorchRuntime()
        }

        @JvmStatic
        fun getRuntime(): ExecuTorchRuntime = runtime

        @JvmStatic
        fun validateFilePath(path: String?, description: String) {
            val file = File(requireNotNull(path) { "Cannot load $description: path is null" })
            require(file.exists()) { "Cannot load $description: path does not exist: $path" }
            require(file.isFile) { "Cannot load $description: path is not a file: $path" }
            require(file.canRead()) { "Cannot load $description: path is not readable: $path" }
        }

        @JvmStatic
        external fun getRegisteredOps(): Array<String>

        @JvmStatic
        external fun getRegisteredBackends(): Array<String>
    }
}
