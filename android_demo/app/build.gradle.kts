plugins {
    alias(libs.plugins.android.application)
}

// With -PexecutorchAar=FILE an ExecuTorch of one's own, which holds this project's kernels (kernels/mobile_videogpt_kernels.cmake).
val executorchAar = providers.gradleProperty("executorchAar").orNull

android {
    namespace = "org.mobilevideogpt.demo"
    compileSdk = libs.versions.compile.sdk.get().toInt()

    defaultConfig {
        applicationId = "org.mobilevideogpt.demo"
        minSdk = libs.versions.min.sdk.get().toInt()
        targetSdk = libs.versions.target.sdk.get().toInt()
        versionCode = 1
        versionName = "0.1.0"
        ndk { abiFilters += "arm64-v8a" }
        buildConfigField("boolean", "CUSTOM_OPERATORS", (executorchAar != null).toString())
    }

    buildFeatures { buildConfig = true }

    buildTypes {
        release {
            isMinifyEnabled = true
            isShrinkResources = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"), "proguard-rules.pro")
            signingConfig = signingConfigs.getByName("debug") // a demo: replace it before it goes to a store
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    packaging {
        // Not compressed and read from the APK itself, where the plugin aligns them to 16 KB: a phone with such pages loads nothing else.
        jniLibs.useLegacyPackaging = false
    }

    lint {
        warningsAsErrors = false
        abortOnError = true
    }
}

kotlin {
    compilerOptions {
        allWarningsAsErrors = true
    }
}

dependencies {
    implementation(project(":core"))
    if (executorchAar != null) {
        implementation(files(executorchAar))
        implementation(libs.fbjni)
        implementation(libs.nativeloader)
    }
}
