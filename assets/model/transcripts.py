"""Ten chats as a user might type them, answered greedily by the model: writes chats.md, good and bad answers alike.

    python transcripts.py dogear-memo.gguf > chats.md
"""
import os
import sys

import bpe
import gguf
from evaluate import Session

HERE = os.path.dirname(os.path.abspath(__file__))
CHATS = [
    ("A first chat", """Hello!
My name is Torvald and I live in Bergen.
I have a dog named Plixy.
It is rainy today.
The garage code is 7Q2XB.
How are you?
What is my dog called?
Where do I live?
Which code opens the garage?
What is my cat's name?
What do you know about me?
Thanks."""),
    ("Things that change", """Hi there.
My dentist appointment is on Tuesday at 9:30.
The office code is 48151.
I am tired.
Actually, that changed. The office code is 62342.
Tell me a joke.
What is the office code?
Correction. My dentist appointment is on Friday at 11:15.
I had soup for lunch.
When is my dentist appointment?
And the office code?
Good night."""),
    ("Lists", """Hello!
My shopping list: milk, eggs, bread.
I went to the park today.
Add butter to my shopping list.
What is on my shopping list?
Here is my packing list: lamp, rope, tent, map.
The weather is windy.
What is the second thing on my packing list?
How many things are on my packing list?
Read me my shopping list.
Thank you!
Bye."""),
    ("People", """Good morning.
My sister is called Maribel.
Maribel lives in Lisbon.
My boss is called Drago.
Drago works as a pilot.
I am bored.
Let us talk about trains.
Where does my sister live?
What does my boss do for work?
Who is my sister?
What is my brother called?
Great, thanks."""),
    ("Who said what", """Hey.
Halvard said that the bus was late.
Quinby told me that the soup was cold.
I bought a red lamp.
Who said that the soup was cold?
What did Halvard say?
Tell me a story.
My favorite color is teal.
Who told me that the bus was late?
What is my favorite color?
What is my favorite food?
Nice."""),
    ("Codes and numbers", """Hello, how are you?
The wifi code is hk38vz2.
The safe opens with 90417.
The cellar code is RT-5521.
I am going to the market.
Give me the code for the safe.
What's the wifi code?
Use 1188 for the alarm.
How do I open the cellar?
What is the alarm code?
What is the gate code?
My lucky number is 4711.
What is my lucky number?"""),
    ("Skills", """Hi!
Repeat after me: Zanzibar
Count to 7.
What is 4 plus 5?
Spell lamp.
What is 9 minus 3?
Say this: the moon is bright
What can you do?
Who are you?
Please repeat: K8L2P
What time is it?
Goodbye!"""),
    ("A busy day", """Good morning.
I could not sleep well, and the neighbors were loud again. My meeting is on Monday at 8:45. I still have to buy tea.
My name is Ulrike. I work as a nurse. My cat is called Bimbo.
I saw a blue boat today. It was on the river and it looked very old.
We watched golf on television.
When is my meeting?
I just came home and my feet hurt. What is my cat called? The radio is too loud.
What is my job?
I want to visit Vienna.
Do you know my name?
What is my dog called?
Summarize what I told you."""),
    ("Notes", """Hello!
Keep these notes: anchor = 5512. violin = 8107. candle = 3340. rocket = 9926.
What is violin?
I am drinking cocoa.
What is rocket?
My street is Merrow Street.
What is anchor?
"alpha": "XK42", "delta": "PP91", "omega": "LM07",
What is the value of "delta"?
What is my street?
What is the value of "omega"?
Wow!"""),
    ("Off the beaten track", """hi
my name is sam, by the way
i lost my keys today and i feel stupid
can you write me a poem?
what's the capital of France?
my daughter is called Ines and she loves to paint
do you think it will rain tomorrow?
what is my daughter called?
i am thinking about buying a new bike
what's my name?
what did i lose?
ok bye"""),
]


def main():
    net, tok = gguf.load(sys.argv[1]), bpe.Tokenizer(os.path.join(HERE, "tokenizer.json"))
    print("# Ten chats with the bundled model\n\nGreedy answers, no system message, one conversation each; nothing was "
          "edited or left out.")
    for title, lines in CHATS:
        s = Session(net, tok)
        print("\n## %s\n" % title)
        for line in lines.split("\n"):
            s.add("user", line)
            print("**You:** %s  \n**Dogear:** %s\n" % (line, s.answer()))
        print("(%d tokens)" % s.count)


if __name__ == "__main__":
    main()
