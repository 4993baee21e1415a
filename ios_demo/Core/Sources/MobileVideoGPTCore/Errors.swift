import Foundation

/// The one family of errors that a user can cause or cure. `message` is one line that says what happened and what to do.
public enum VideoGPTError: Error, Equatable, Sendable {
    // A bundle.
    case notABundle(folder: String)
    case missingFile(String)
    case unreadableFile(String, reason: String)
    case changedFile(String)
    case invalidManifest(String)
    case newerSchema(found: Int, read: Int)
    case olderSchema(found: Int, read: Int)
    case wrongTarget(found: String, wanted: [String])
    case missingOperators([String])
    case doesNotFitMemory(needed: Int, available: Int)
    case noTokenizer
    case unreadableTokenizer(reason: String)
    case invalidGolden(String)
    case graphFailed(graph: String, reason: String)
    case logitsNotFinite

    // A video.
    case videoUnreadable(reason: String)
    case noVideoTrack
    case unsupportedPixels(format: String)
    case videoWithoutFrames

    // A question.
    case promptTooLong(tokens: Int, after: Int, context: Int, visual: Int)
    case promptInvalid(String)
    case optionOutOfRange(String)
    case outOfOrder(String)

    // A download.
    case badAddress(String)
    case invalidPin(String)
    case offline(reason: String)
    case serverRefused(status: Int, file: String)
    case wrongPin(expected: String, found: String)
    case invalidChecksums(reason: String)
    case diskFull(needed: Int, available: Int)
    case cannotWrite(path: String, reason: String)

    /// What a screen is about.
    public enum Family: Sendable { case bundle, memory, computing, video, question, download, storage }

    public var family: Family {
        switch self {
        case .notABundle, .missingFile, .unreadableFile, .changedFile, .invalidManifest, .newerSchema, .olderSchema, .wrongTarget,
            .missingOperators, .noTokenizer, .unreadableTokenizer, .invalidGolden:
            .bundle
        case .graphFailed, .logitsNotFinite: .computing
        case .doesNotFitMemory: .memory
        case .videoUnreadable, .noVideoTrack, .unsupportedPixels, .videoWithoutFrames: .video
        case .promptTooLong, .promptInvalid, .optionOutOfRange, .outOfOrder: .question
        case .badAddress, .invalidPin, .offline, .serverRefused, .wrongPin, .invalidChecksums, .diskFull: .download
        case .cannotWrite: .storage
        }
    }

    /// One line for the user: what happened, and what to do.
    public var message: String {
        switch self {
        case .notABundle(let folder):
            "\(folder) is no bundle, it has no manifest.json: choose the folder that `python -m export.build` wrote"
        case .missingFile(let path): "\(path) is missing: \(Self.remedy)"
        case .unreadableFile(let path, let reason): "\(path) cannot be read (\(reason)): \(Self.remedy)"
        case .changedFile(let path): "\(path): its contents are not those that were built: \(Self.remedy)"
        case .invalidManifest(let line): "manifest.json: \(line): \(Self.remedy)"
        case .newerSchema(let found, let read):
            "the bundle was made by a newer version of the tool (schema \(found), this app reads \(read)): update the app"
        case .olderSchema(let found, let read):
            "the bundle was made by an older version of the tool (schema \(found), this app reads \(read)): build the bundle again"
        case .wrongTarget(let found, let wanted):
            "the bundle was built for \(found), and this app runs \(wanted.joined(separator: " and ")): "
                + "build it again with --target \(wanted.first ?? "")"
        case .missingOperators(let names):
            "the bundle needs operators that this app lacks (\(names.joined(separator: ", "))): link them, or build with --kernels stock"
        case .doesNotFitMemory(let needed, let available):
            "the bundle needs \(megabytes(needed)) of memory and this device has \(megabytes(available)) for it: "
                + "close other apps, or build with a smaller recipe or --max-context"
        case .noTokenizer: "the bundle has no tokenizer.json, so it cannot be asked in words: build it from a checkpoint that has one"
        case .unreadableTokenizer(let reason):
            "tokenizer.json cannot be read (\(reason)): copy the checkpoint's tokenizer.json anew and build again"
        case .invalidGolden(let line): "the bundle's golden vectors: \(line): \(Self.remedy)"
        case .graphFailed(let graph, let reason):
            "the graph \(graph) cannot be run (\(reason)): free some memory, or build the bundle again"
        case .logitsNotFinite: "the decoder gave logits that are not finite: build the bundle again, with fp32 or another recipe"
        case .videoUnreadable(let reason): "the video cannot be read (\(reason)): record, copy or download it again"
        case .noVideoTrack: "this file has no video track: choose another"
        case .unsupportedPixels(let format):
            "the video's pixels are \(format), and 8-bit video without HDR is read: record without HDR, or convert it"
        case .videoWithoutFrames: "no frame of the video can be decoded: record, copy or download it again"
        case .promptTooLong(let tokens, let after, let context, let visual):
            "\(tokens) tokens \(after > 0 ? "after \(after) " : "")do not fit the context of \(context) tokens, of which the video takes "
                + "\(visual): ask a shorter question, start a new conversation, or build with a larger --max-context"
        case .promptInvalid(let line), .optionOutOfRange(let line), .outOfOrder(let line): line
        case .badAddress(let text): "\(text.isEmpty ? "nothing" : text) is no web address: give one that begins with https://"
        case .invalidPin(let text): "\(text.isEmpty ? "nothing" : text) is no pin: give the 64 hex digits that export.build printed"
        case .offline(let reason): "the server cannot be reached (\(reason)): check the connection and try again, what has arrived is kept"
        case .serverRefused(let status, let file): "the server answers \(status) for \(file): check the address"
        case .wrongPin(let expected, let found):
            "the bundle at this address is another one (its pin begins \(found.prefix(12)), not \(expected.prefix(12))): "
                + "check the address and the pin"
        case .invalidChecksums(let reason): "the bundle's SHA256SUMS cannot be used (\(reason)): build and upload the bundle again"
        case .diskFull(let needed, let available):
            "the bundle takes \(megabytes(needed)) and \(megabytes(available)) are free: delete something and try again"
        case .cannotWrite(let path, let reason): "\(path) cannot be written (\(reason)): free some space and try again"
        }
    }

    private static let remedy = "build the bundle again or copy it anew"
}

extension VideoGPTError: LocalizedError, CustomStringConvertible {
    public var errorDescription: String? { message }
    public var description: String { message }
}

/// Bytes as people read them, in units of 10^6 bytes.
func megabytes(_ bytes: Int) -> String {
    bytes >= 1_000_000_000 ? String(format: "%.1f GB", Double(bytes) / 1e9) : String(format: "%.0f MB", Double(bytes) / 1e6)
}
