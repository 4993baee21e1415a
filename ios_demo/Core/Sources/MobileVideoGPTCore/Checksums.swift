import Foundation

/// A bundle's `SHA256SUMS`: the SHA-256 of every file but itself. Its own SHA-256 is the bundle's pin.
struct Checksums: Sendable, Equatable {
    struct Entry: Sendable, Equatable {
        let sha256: String
        let path: String
    }

    let entries: [Entry]

    /// Reads what `sha256sum` printed. Throws `invalidChecksums` for a path that could leave the folder, a line of another form, and a
    /// list without manifest.
    init(_ data: Data) throws {
        guard let text = String(validating: data, as: UTF8.self) else { throw VideoGPTError.invalidChecksums(reason: "it is no text") }
        entries = try text.split(separator: "\n").map { line in
            let sha256 = String(line.prefix(64))
            let path = String(line.dropFirst(66))
            guard isSHA256(sha256), line.dropFirst(64).prefix(2) == "  ", isRelativePath(path), path != BundleFiles.checksums else {
                throw VideoGPTError.invalidChecksums(reason: "its line '\(printable(String(line), 80))'")
            }
            return Entry(sha256: sha256, path: path)
        }
        guard entries.contains(where: { $0.path == Manifest.fileName }) else {
            throw VideoGPTError.invalidChecksums(reason: "it lists no \(Manifest.fileName)")
        }
        guard Set(entries.map(\.path)).count == entries.count else { throw VideoGPTError.invalidChecksums(reason: "it lists a file twice") }
    }
}
