// work.js SECONDS: a function that V8 compiles.
function multiply(rounds) {
    let sum = 1;
    for (let i = 0; i < rounds; i++) {
        sum = (Math.imul(sum, 3) + i) | 0;
    }
    return sum;
}

function drive(until) {
    let sum = 0;
    while (Date.now() < until) {
        sum ^= multiply(1000000);
    }
    return sum;
}

console.log(drive(Date.now() + Number(process.argv[2] ?? 1) * 1000));
