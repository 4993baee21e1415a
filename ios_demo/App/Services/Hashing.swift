import CryptoKit
import Foundation
import MobileVideoGPTCore

/// SHA-256 by CryptoKit, which uses the processor's instructions for it.
struct CryptoKitHashing: Hashing {
    func sha256() -> any HashState { State() }

    private struct State: HashState {
        var hash = SHA256()
        mutating func update(_ bytes: UnsafeRawBufferPointer) { hash.update(bufferPointer: bytes) }
        mutating func finish() -> [UInt8] { Array(hash.finalize()) }
    }
}
