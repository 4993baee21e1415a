import Foundation

@testable import MobileVideoGPTCore

/// FIPS 180-4, plainly: what apps take from CryptoKit.
struct PlainHashing: Hashing {
    func sha256() -> any HashState { State() }

    private struct State: HashState {
        private var words: [UInt32] = [
            0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
        ]
        private var waiting: [UInt8] = []
        private var length = 0

        mutating func update(_ bytes: UnsafeRawBufferPointer) {
            length += bytes.count
            waiting += bytes
            let whole = waiting.count / 64 * 64
            for begin in stride(from: 0, to: whole, by: 64) { compress(begin) }
            waiting.removeFirst(whole)
        }

        mutating func finish() -> [UInt8] {
            let bits = UInt64(length) * 8
            waiting.append(0x80)
            while waiting.count % 64 != 56 { waiting.append(0) }
            waiting += (0..<8).map { UInt8(truncatingIfNeeded: bits >> (56 - 8 * UInt64($0))) }
            for begin in stride(from: 0, to: waiting.count, by: 64) { compress(begin) }
            return words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (24 - 8 * UInt32($0))) } }
        }

        private mutating func compress(_ begin: Int) {
            var schedule = [UInt32](repeating: 0, count: 64)
            waiting.withUnsafeBufferPointer { bytes in
                for i in 0..<16 {
                    let at = begin + i * 4
                    let (high, low) = (UInt32(bytes[at]) << 8 | UInt32(bytes[at + 1]), UInt32(bytes[at + 2]) << 8 | UInt32(bytes[at + 3]))
                    schedule[i] = high << 16 | low
                }
            }
            func turned(_ word: UInt32, _ by: UInt32) -> UInt32 { word >> by | word << (32 - by) }
            for i in 16..<64 {
                let (a, b) = (schedule[i - 15], schedule[i - 2])
                let small = turned(a, 7) ^ turned(a, 18) ^ a >> 3
                let large = turned(b, 17) ^ turned(b, 19) ^ b >> 10
                schedule[i] = schedule[i - 16] &+ small &+ schedule[i - 7] &+ large
            }
            var (a, b, c, d) = (words[0], words[1], words[2], words[3])
            var (e, f, g, h) = (words[4], words[5], words[6], words[7])
            for i in 0..<64 {
                let choice = e & f ^ ~e & g
                let first = h &+ (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) &+ choice &+ Self.constants[i] &+ schedule[i]
                let majority = a & b ^ a & c ^ b & c
                let second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) &+ majority
                (h, g, f, e, d, c, b, a) = (g, f, e, d &+ first, c, b, a, first &+ second)
            }
            for (i, word) in [a, b, c, d, e, f, g, h].enumerated() { words[i] &+= word }
        }

        /// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
        private static let constants: [UInt32] = {
            var primes: [Int] = []
            var candidate = 2
            while primes.count < 64 {
                if primes.allSatisfy({ candidate % $0 != 0 }) { primes.append(candidate) }
                candidate += 1
            }
            return primes.map { prime in
                var root: UInt64 = 0  // of prime x 2^96, bit by bit
                for bit in stride(from: 35, through: 0, by: -1) {
                    let next = root | 1 << UInt64(bit)
                    let square = next.multipliedFullWidth(by: next)  // below 2^72
                    let low = square.low.multipliedFullWidth(by: next)
                    let high = square.high &* next &+ low.high
                    if high < UInt64(prime) << 32 || (high == UInt64(prime) << 32 && low.low == 0) { root = next }
                }
                return UInt32(truncatingIfNeeded: root)
            }
        }()
    }
}
