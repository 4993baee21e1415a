import Foundation

/// What a device and an app offer to a bundle. (Foundation has a `Host` of its own on macOS and Linux.)
public struct BundleHost: Sendable {
    /// Bytes that the app may still take, `os_proc_available_memory()` on iOS.
    public let availableBytes: Int
    /// Targets that the app runs, as the manifest names them: `coreml`.
    public let targets: [String]
    /// Whether this project's own operators are linked, which bundles of `--kernels fused` need.
    public let customOperators: Bool

    public init(availableBytes: Int, targets: [String], customOperators: Bool = false) {
        self.availableBytes = availableBytes
        self.targets = targets
        self.customOperators = customOperators
    }
}

/// A bundle folder whose files were checked. It is believed only as far as its hashes go.
public struct ModelBundle: Sendable {
    public let folder: URL
    public let manifest: Manifest

    /// The artifact of a graph: a folder for a Core ML package.
    public func graphURL(_ graph: GraphName) -> URL { folder.appending(path: manifest.graph(graph).file) }

    /// tokenizer.json, where the checkpoint had one.
    public var tokenizerURL: URL? {
        manifest.files[Self.tokenizerFile] == nil ? nil : folder.appending(path: Self.tokenizerFile)
    }

    static let tokenizerFile = "tokenizer.json"

    /// Reads the manifest without checking files: what a list of bundles shows. Throws `VideoGPTError`.
    public static func readManifest(_ folder: URL, hashing: any Hashing) throws -> Manifest {
        let file = folder.appending(path: Manifest.fileName)
        guard FileManager.default.fileExists(atPath: file.path) else { throw VideoGPTError.notABundle(folder: folder.lastPathComponent) }
        do {
            return try Manifest(data: Data(contentsOf: file), hashing: hashing)
        } catch let error as VideoGPTError {
            throw error
        } catch {
            throw VideoGPTError.unreadableFile(Manifest.fileName, reason: oneLine(error))
        }
    }

    /// Checks a bundle for this host and returns it: schema, target, operators and memory first, which cost nothing, then sizes, then
    /// hashes. Every byte is hashed the first time, after a change, and where `verify` is true; `stamps` is a folder where what was seen
    /// is kept, of the app's caches, not in the bundle. `progress` gets the share of bytes that is hashed, 0 to 1.
    /// Throws `VideoGPTError`, one line that names the file, and `CancellationError`.
    public static func open(
        _ folder: URL, host: BundleHost, stamps: URL?, hashing: any Hashing, verify: Bool = false, progress: (Double) -> Void = { _ in }
    ) throws -> ModelBundle {
        let manifest = try readManifest(folder, hashing: hashing)
        try check(manifest, host: host)
        let entries = entries(of: manifest)
        let files = BundleFiles(folder: folder, hashing: hashing)
        let seen = try Stamp(manifest: manifest.digest, files: entries.flatMap { try files.look($0.path, bytes: $0.bytes) })
        let stamp = stamps?.appending(path: hashing.hex(Array(folder.resolvingSymlinksInPath().path.utf8)) + ".json")
        if verify || Stamp.read(stamp) != seen {
            let total = max(1, entries.reduce(0) { $0 + $1.bytes })
            var done = 0
            for entry in entries {
                let found = try files.hash(entry.path) { bytes in
                    done += bytes
                    progress(min(1, Double(done) / Double(total)))
                }
                guard found == entry.sha256 else { throw VideoGPTError.changedFile(entry.path) }
            }
            seen.write(stamp)  // what was seen before hashing: a change while hashing shows next time
        }
        return ModelBundle(folder: folder, manifest: manifest)
    }

    /// What the manifest alone says about this host.
    static func check(_ manifest: Manifest, host: BundleHost) throws {
        guard host.targets.contains(manifest.target) else { throw VideoGPTError.wrongTarget(found: manifest.target, wanted: host.targets) }
        guard host.customOperators || manifest.customOperators.isEmpty else {
            throw VideoGPTError.missingOperators(manifest.customOperators)
        }
        guard manifest.expectedMemoryBytes <= host.availableBytes else {
            throw VideoGPTError.doesNotFitMemory(needed: manifest.expectedMemoryBytes, available: host.availableBytes)
        }
    }

    private static func entries(of manifest: Manifest) -> [(path: String, sha256: String, bytes: Int)] {
        var entries = manifest.files.mapValues { (sha256: $0.sha256, bytes: $0.bytes) }
        for graph in manifest.graphs.values { entries[graph.file] = (graph.sha256, graph.bytes) }
        return entries.map { ($0.key, $0.value.sha256, $0.value.bytes) }.sorted { $0.path < $1.path }
    }
}

/// What was seen of a bundle's files when their hashes were right.
private struct Stamp: Codable, Equatable {
    let manifest: String
    let files: [BundleFiles.Look]

    /// One that cannot be read is as good as none: the files are hashed.
    static func read(_ file: URL?) -> Stamp? {
        file.flatMap { try? Data(contentsOf: $0) }.flatMap { try? JSONDecoder().decode(Stamp.self, from: $0) }
    }

    /// A cache that cannot be written costs time, not correctness.
    func write(_ file: URL?) {
        guard let file, let data = try? JSONEncoder().encode(self) else { return }
        try? FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try? data.write(to: file, options: .atomic)
    }
}

/// An error of the system in one line.
func oneLine(_ error: any Error) -> String {
    (error as NSError).localizedDescription.split(whereSeparator: \.isNewline).joined(separator: " ")
}
