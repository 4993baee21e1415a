// The library that other apps embed: `gradle :core:assembleRelease` makes its AAR, `gradle :core:test` runs its tests on the JVM.
plugins {
    alias(libs.plugins.android.library)
}

// A bundle to test against: its golden vectors are what core's results are compared with.
val bundle = providers.gradleProperty("bundle").map { file(it) }.getOrElse(rootDir.resolveSibling("bundles/demo"))

android {
    namespace = "org.mobilevideogpt.core"
    compileSdk = libs.versions.compile.sdk.get().toInt()

    defaultConfig {
        minSdk = libs.versions.min.sdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    testOptions {
        unitTests.all {
            it.systemProperty("bundle", bundle)
            it.systemProperty("golden", bundle)
            it.inputs.dir(bundle)
        }
    }
}

kotlin {
    compilerOptions {
        allWarningsAsErrors = true
    }
}

// With -PexecutorchAar=FILE an ExecuTorch of one's own, which holds this project's kernels (kernels/mobile_videogpt_kernels.cmake).
val executorchAar = providers.gradleProperty("executorchAar").orNull

dependencies {
    if (executorchAar == null) {
        implementation(libs.executorch.android)
    } else {
        compileOnly(files(executorchAar)) // the app packs it: an AAR may not hold another one
    }
    testImplementation(libs.junit)
    testImplementation(libs.android.json)
}
