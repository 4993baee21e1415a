// swift-tools-version: 6.0
import PackageDescription

// Foundation only: builds on Linux and on Apple's systems. An app brings the tokenizer, the video decoder, SHA-256 and what runs the graphs.
let package = Package(
    name: "MobileVideoGPTCore",
    platforms: [.iOS(.v18), .macOS(.v15)],  // Core ML's state
    products: [.library(name: "MobileVideoGPTCore", targets: ["MobileVideoGPTCore"])],
    targets: [
        .target(name: "MobileVideoGPTCore"),
        .testTarget(name: "MobileVideoGPTCoreTests", dependencies: ["MobileVideoGPTCore"]),
    ],
    swiftLanguageModes: [.v6]
)
