"""Offline evaluation: the arms of an experiment answer a dataset, checks score the answers, and a report compares the arms.

dataset   the items, read line by line
arms      the experiment's arms, and the models behind them
checks    what turns an answer into a score
runner    asks, retries, stays within the budget, and writes the journal as answers come
journal   one line for each answer, on disk before it counts; a run goes on where its journal ends
findings  scores by arm and item, and their comparison
summary   the report
"""
