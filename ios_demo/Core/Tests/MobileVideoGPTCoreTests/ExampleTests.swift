import Foundation
import MobileVideoGPTCore
import XCTest

/// The package's API as an app uses it: ios_demo/README.md says how. It is compiled, and run by the tests' doubles; an app brings
/// CryptoKit, swift-transformers, AVFoundation and Core ML in their places.
// example begins
func describe(
    _ video: URL, bundle folder: URL, hashing: any Hashing, reader: any FrameReading, tokenizer: any Tokenizing,
    engine: @escaping @Sendable (ModelBundle) throws -> any PackageEngine
) async throws -> String {
    let host = BundleHost(availableBytes: 2_000_000_000, targets: ["coreml"])  // on iOS: os_proc_available_memory()
    let caches = FileManager.default.urls(for: .cachesDirectory, in: .userDomainMask).first
    let bundle = try ModelBundle.open(folder, host: host, stamps: caches, hashing: hashing)
    let chat = VideoChat(bundle: bundle, tokenizer: tokenizer) { bundle in
        try PackageBackend(manifest: bundle.manifest, engine: engine(bundle), name: "coreml-all", versions: [:])
    }
    let watched = try await chat.watch(video, reader: reader)
    print("key frames:", watched.keyFrames.map { watched.frames[$0] })
    var answer = ""
    for try await event in chat.ask("What happens in this video?", options: AnswerOptions(maxNewTokens: 200)) {
        switch event {
        case .text(let text): answer += text  // show it: the answer grows word by word; chat.stop() ends it
        case .forgot(let turns): print("the first \(turns) questions are forgotten, the video is not")
        case .done(let report): print("\(report.tokens) tokens, the first after \(report.firstTokenSeconds ?? 0) s")
        }
    }
    return answer
}
// example ends
