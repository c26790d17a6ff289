"""Expressions by the rule of psi that fires in them, over the parameters of one function."""

from __future__ import annotations

from itertools import permutations

PARAMETERS = (
    "w: int, X[n, m], Y[n, m], Z[m, d], A[2, 3, n], B[n, m, d], C[2, 3, m, n], v[n], u[m], s: float, "
    "idx: int[r], tab: int[n, r], k: int[n, m], keep: bool[n, m]"
)

# rule -> expressions, apart by semicolons
TEXTS = {
    "psi": "X[1]; X[:, -1]; ⟨1 2⟩ ψ B; B[0][1]; 2 ψ (1 ψ C); X[1:][w % 2]; C[1, :, 2]",
    "iota": "iota(n)[:, None] * X; where(iota(m) < 2, X, -X); iota(n)[1:] * 2; iota(w + 3)",
    "scalar operator": "exp(X); -X; abs(X.T); 1.0 * k; ~keep; sqrt(abs(v))",
    "scalar operator on two": "X + Y; X * Y[::-1]; maximum(X, Y); where(keep, X, Y); k // 2 + k % 3",
    "scalar extension": "2 * X; X / s; s - X; where(X > 0, X, 0); zeros(n, m) + 1; X ** 0",
    "outer product": "v •× u; v •- u; v •+ Z; X •× v; v[:, None] * u; v •⌈ u",
    "omega on two": """
        X - u; v[:, None] + X; X -Ω⟨1 0⟩ v; B + X[:, :, None]; C * X.T; where(v[:, None] > 0, X, Y);
        X -Ω⟨1 1⟩ u; B +Ω⟨2 2⟩ Z
    """,
    "take": "2 △ X; -1 △ X; take(X, -3, axis=1); ⟨2, -1⟩ △ X; take(u, -w + w - 2); X[-2:]",
    "drop": "1 ▽ X; drop(X, -1); drop(X, 2, axis=1); ⟨1, -2⟩ ▽ X; X[1:, 2:]; X[1:3]; X[:-1]; take(X, n - 1)",
    "reverse": "Φ X; reverse(X, axis=1); X[::-1]; ΦΩ⟨1⟩ X; reverse(reverse(X) + Y); Φ C",
    "stride": "X[::2]; X[1::2]; X[::-2]; X[:, ::3]; X[3::-1]; X[:0:-1]; X[-1::-3]; C[..., 1::2]; u[3:0:-2]",
    "rotate": """
        1 θ X; rotate(X, 2, axis=1); rotate(X, -1); rotate(X, 7); rotate(X, -9, axis=1); rotate(X, w);
        rotate(X, -w, axis=1); rotate(X, n); rotate(A, 2, axis=1); rotate(A, -8, axis=1); w θΩ⟨1⟩ X;
        rotate(X[1:], 1); rotate(X, w - n); rotate(rotate(X, w), 2); rotate(concat(X, Y), n);
        sum(rotate(X, 1), axis=0); rotate(u, 5) @ Z
    """,
    "new axis": "X[None]; X[:, None] + A[0, 0, :, None, None]; max(X, axis=0, keepdims=True); u[None, :, None]",
    "gather": "X[idx]; X[tab]; X.T[:, idx]; v[tab]; X[idx][::-1]; B[:, idx][1]; u[idx[idx * 0]]; X[idx][:, idx]",
    "cat": """
        X ⧺ Y; concat(X, Y, axis=1); concat(concat(X, Y), X); concat(X, Y)[2:7]; concat(X, X.T @ X); concat(k, k);
        sum(concat(X, Y), axis=0); concat(keep, ~keep, axis=1); concat(A, A, axis=2); concat(C, C, axis=1);
        rotate(concat(u, u), 3); reverse(concat(X, Y)); max(concat(v, -v), axis=0);
        concat(X, Y, axis=1) @ concat(Z, Z)
    """,
    "transpose": "X.T; ⍉ B; transpose(C); X.T @ X; ⍉ (⍉ A); (X @ Z).T",
    "permute": "⟨2 0 1⟩ ⍉ B; transpose(transpose(B, [1, 2, 0]), [1, 2, 0]); ⍉Ω⟨2⟩ B; B.T",
    "ravel": "reshape(X, [n * m]); reshape(B, [-1]); reshape(X.T, [m * n]); reshape(X[:, ::2], [-1])",
    "reshape": """
        reshape(X, [n // 2, 2, m]); reshape(X, [2, n // 2, m]); reshape(X, [n, 2, m // 2]); reshape(B, [n * m, d]);
        reshape(B, [n, m * d]); reshape(X, [m, n]); reshape(C, [6, m, n]); reshape(C, [3, 2, n, m]);
        reshape(C, [m * n, 6]); reshape(A, [3, 2, n]); reshape(A, [n, 6]); reshape(A, [2, n, 3]); ⟨m n⟩ ρ X;
        reshape(reshape(X, [n * m]), [m, n]); reshape(reshape(B, [n, m * d]), [n * m, d]); reshape(X.T, [n, m]);
        sum(reshape(X, [n // 2, 2, m]), axis=1); reshape(X[:2], [m, 2]); reshape(X, [2 * n, m // 2]);
        reshape(u, [m // 2, 2]); reshape(iota(n), [n // 2, 2]); reshape(rotate(X, 1), [m, n])
    """,
    "reduce": "+/ X; max(v, axis=0); sum(X.T, axis=0); any(X > 1, axis=0); ×/ v; ⌊/ B; sum(A, axis=0)",
    "omega": "sum(X); +/Ω⟨1⟩ X; reverse(C, axis=2); X[:, 1]; max(C, axis=2); take(X, 2, axis=1); cumsum(X)",
    "scan": """
        +\\ X; cumsum(X, axis=1); cummax(v); cumsum(k, axis=0); cummax(k); ∨\\ keep; ×\\Ω⟨1⟩ k;
        cumsum(X > 0, axis=0)
    """,
    "inner product": """
        X @ Z; v @ X; X @ u; u @ u; X.T @ Y; X +•× Z; A @ X; C @ X; k @ k.T; (X @ Z) @ Z.T; u +•× Z;
        X[:, :1] @ Y[:1]
    """,
    "argmax": "argmax(X); argmax(X, axis=0); argmax(k); argmax(v); X[argmax(X.T)]; argmax(X[:, :1])",
    "argsort": "argsort(X); argsort(k, axis=0); v[argsort(v)]; top_k(X, 2); inverse(argsort(u))",
    "split": """
        sum(where(iota(m) < w, X, 0)); max(where(iota(m) <= iota(n)[:, None], X, -inf)); X @ concat(Z[:1], 2 * Z[1:])
    """,
    "constant along runs": """
        max(X[iota(n) // 2]); sum(X[iota(n) // (w % 3 + 1)] * u); X[iota(n) // 3] @ Z; sum(k[iota(n) // 2 + 0 * n // 2])
    """,
    "log of a count": """
        log(k); sum(log(abs(k)) * X); max(X + log(where(keep, abs(k), 1))); sum(exp(X + log(abs(k) * 1)), axis=0);
        sum(where(log(abs(k)) == -inf, 0, X)); log(where(keep, 1, 0) + abs(k))
    """,
    "assign": "X; v + 1; (X, Y)",
}

PERMUTED = (*(("B", p) for p in permutations(range(3))), *(("C", p) for p in permutations(range(4))))
RULES = {rule: tuple(e.strip() for e in text.split(";")) for rule, text in TEXTS.items()}
RULES["permute"] += tuple(
    f"transpose({x}, [{', '.join(map(str, p))}])" for x, p in PERMUTED if list(p) not in (sorted(p), sorted(p)[::-1])
)
